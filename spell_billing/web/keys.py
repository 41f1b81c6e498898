"""Keys for signing, each for one purpose, derived from the admin secret: one is good for nothing else."""

import hashlib
import hmac

from itsdangerous import URLSafeSerializer
from pydantic import SecretStr


def derive_key(secret: SecretStr, purpose: str) -> bytes:
    """Derive the 32-byte key of a purpose, as `session` or `user link`.

    HMAC-SHA256 is a pseudorandom function of its key: a derived key tells nothing about the secret or about
    the key of another purpose (RFC 5869 builds on the same).
    """
    message = b"spell_billing/" + purpose.encode()
    return hmac.digest(secret.get_secret_value().encode(), message, hashlib.sha256)


def signer(key: bytes, purpose: str) -> URLSafeSerializer:
    """Return what signs and reads texts that go back and forth in cookies and addresses."""
    kwargs = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
    return URLSafeSerializer(key, salt=purpose, signer_kwargs=kwargs)
