"""AWS KMS: 32 bytes encrypted and decrypted by a key that never leaves it. Knows no slots and no stores.

Credentials are those of the AWS library, by its own variables and profiles; so is the endpoint, where it is one for KMS. One for every
service (AWS_ENDPOINT_URL) is that of the bucket's provider, who must not be sent what the slot's ciphertext hides from him.
"""

from __future__ import annotations

import os
import re
from typing import Any

from artifactmount.errors import DeniedError, LockedError, NotFoundError, StoreError, UnreachableError, UsageError
from artifactmount.store.s3 import check_transport

#: Of a key itself: an alias leads to whichever key its owner likes, also to another's.
ARN = re.compile(r"arn:[a-z0-9-]+:kms:[a-z0-9-]+:[0-9]{12}:key/([A-Za-z0-9-]+)")
_CONTEXT = "artifactmount-project"
_DENIED = {"AccessDeniedException", "UnrecognizedClientException", "InvalidSignatureException", "ExpiredTokenException"}
_STRANGE = {"InvalidCiphertextException", "IncorrectKeyException", "InvalidKeyUsageException", "ValidationException"}
_AWAY = {"DisabledException", "KMSInvalidStateException", "KeyUnavailableException"}
#: Seconds, and attempts: a store may name 64 keys, in regions of its choice.
_CONNECT, _READ, _ATTEMPTS = 5, 10, 2


def encrypt(key_id: str, secret: bytes, project_id: str) -> tuple[str, bytes]:
    """(ARN of the key, ciphertext). Raises DeniedError, NotFoundError, UnreachableError, StoreError."""
    answer = _call("encrypt", key_id, Plaintext=secret, EncryptionContext={_CONTEXT: project_id})
    return str(answer["KeyId"]), bytes(answer["CiphertextBlob"])


def decrypt(key_arn: str, ciphertext: bytes, project_id: str) -> bytes:
    """What `encrypt` was given. Raises LockedError when it was not for this key and project; and as `encrypt` does."""
    answer = _call("decrypt", key_arn, CiphertextBlob=ciphertext, EncryptionContext={_CONTEXT: project_id})
    if answer["KeyId"] != key_arn:
        raise LockedError(f"KMS used the key {answer['KeyId']}, not {key_arn}")
    return bytes(answer["Plaintext"])


def arn_of(key_id: str) -> str:
    """The ARN of a key by its id or alias: a zero is encrypted with it, which takes no right that a new slot does not take.
    Raises as `encrypt` does."""
    return key_id if ARN.fullmatch(key_id) else encrypt(key_id, bytes(1), "none")[0]


def connect(key_id: str) -> Any:
    """The AWS library's client for a key; asks nothing. Raises UsageError for an endpoint that secrets may not be sent to."""
    from botocore.config import Config
    from botocore.session import get_session

    parts = key_id.split(":")
    region = parts[3] if len(parts) == 6 and parts[0] == "arn" else None
    config = Config(  # type: ignore[call-arg] # the stubs do not know the last one
        connect_timeout=_CONNECT,
        read_timeout=_READ,
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        ignore_configured_endpoint_urls=True,
    )
    session = get_session()
    endpoint = os.environ.get("AWS_ENDPOINT_URL_KMS") or _endpoint_of_profile(session)
    try:
        client = session.create_client("kms", region_name=region, endpoint_url=endpoint, config=config)
    except ValueError as error:
        raise UsageError(f"cannot use KMS: {error}") from None
    check_transport(client.meta.endpoint_url)
    return client


def _endpoint_of_profile(session: Any) -> str | None:
    """What the profile says of KMS in its `services`; its endpoint for everything counts as little as the variable does."""
    services = session.full_config.get("services", {}).get(session.get_scoped_config().get("services"), {})
    found = services.get("kms", {})
    return found.get("endpoint_url") if isinstance(found, dict) else None


def _call(action: str, key_id: str, **arguments: Any) -> dict[str, Any]:
    from botocore import exceptions

    try:
        client = connect(key_id)
        try:
            answer: dict[str, Any] = getattr(client, action)(KeyId=key_id, **arguments)
        finally:
            client.close()
    except exceptions.ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in _DENIED:
            raise DeniedError(f"KMS does not let you use the key {key_id}: {error}") from None
        if code in _STRANGE:
            raise LockedError(f"KMS cannot {action} this with the key {key_id}: {error}") from None
        if code == "NotFoundException":
            raise NotFoundError(f"KMS knows no key {key_id}: {error}") from None
        raise (DeniedError if code in _AWAY else StoreError)(f"KMS, key {key_id}: {error}") from None
    except exceptions.NoCredentialsError:
        raise DeniedError(f"no AWS credentials to use the KMS key {key_id} with") from None
    except (exceptions.ConnectionError, exceptions.HTTPClientError) as error:
        raise UnreachableError(f"KMS cannot be reached for the key {key_id}: {error}") from None
    except exceptions.BotoCoreError as error:
        raise StoreError(f"KMS, key {key_id}: {error}") from None
    return answer
