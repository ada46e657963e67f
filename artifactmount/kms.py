"""AWS KMS: 32 bytes encrypted and decrypted by a key that never leaves it. Knows no slots and no stores.

Credentials and endpoint are those of the AWS library, by its own variables and profiles.
"""

from __future__ import annotations

from typing import Any

from artifactmount.errors import DeniedError, LockedError, NotFoundError, StoreError, UnreachableError

_CONTEXT = "artifactmount-project"
_DENIED = {"AccessDeniedException", "UnrecognizedClientException", "InvalidSignatureException", "ExpiredTokenException"}
_STRANGE = {"InvalidCiphertextException", "IncorrectKeyException", "InvalidKeyUsageException", "ValidationException"}
_AWAY = {"DisabledException", "KMSInvalidStateException", "KeyUnavailableException"}


def encrypt(key_id: str, secret: bytes, project_id: str) -> tuple[str, bytes]:
    """(ARN of the key, ciphertext). Raises DeniedError, NotFoundError, UnreachableError, StoreError."""
    answer = _call("encrypt", key_id, Plaintext=secret, EncryptionContext={_CONTEXT: project_id})
    return str(answer["KeyId"]), bytes(answer["CiphertextBlob"])


def decrypt(key_arn: str, ciphertext: bytes, project_id: str) -> bytes:
    """What `encrypt` was given. Raises LockedError when it was not for this key and project; and as `encrypt` does."""
    answer = _call("decrypt", key_arn, CiphertextBlob=ciphertext, EncryptionContext={_CONTEXT: project_id})
    return bytes(answer["Plaintext"])


def _call(action: str, key_id: str, **arguments: Any) -> dict[str, Any]:
    import boto3
    from botocore import exceptions

    parts = key_id.split(":")
    region = parts[3] if len(parts) == 6 and parts[0] == "arn" else None
    try:
        client: Any = boto3.client("kms", region_name=region)
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
