//! Ed25519 with SHA3-512 in the place of SHA-512, as Keystone's security monitor signs.
//!
//! Keystone keeps the group, the encodings and the equation of RFC 8032, section 5.1.7, and changes the hash alone.
use crate::EvidenceError;
use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use curve25519_dalek::scalar::Scalar;
use sha3::{Digest, Sha3_512};

/// Verify the equation [S]B = R + [k]A without cofactor; S is canonical, neither A nor R of small order.
pub(crate) fn verify(
    public: &[u8; 32],
    signature: &[u8; 64],
    message: &[u8],
) -> Result<(), EvidenceError> {
    let invalid = EvidenceError::SignatureInvalid("the signature does not verify");
    let (r_bytes, s_bytes) = signature.split_at(32);
    let (Ok(r_bytes), Ok(s_bytes)) = (r_bytes.try_into(), s_bytes.try_into()) else {
        return Err(invalid);
    };
    // Step 1: decode the key, R and S; others than canonical ones would let one signature have two forms.
    let (a, r) = (CompressedEdwardsY(*public), CompressedEdwardsY(r_bytes));
    let (Some(key), Some(point)) = (a.decompress(), r.decompress()) else {
        return Err(invalid);
    };
    let Some(s) = Option::<Scalar>::from(Scalar::from_canonical_bytes(s_bytes)) else {
        return Err(invalid);
    };
    if key.is_small_order() || point.is_small_order() {
        return Err(invalid);
    }
    // Step 2: the challenge, k = SHA3-512(R || A || message) modulo the group's order.
    let mut hash = Sha3_512::new();
    hash.update(r_bytes);
    hash.update(public);
    hash.update(message);
    let k = Scalar::from_bytes_mod_order_wide(&hash.finalize().into());
    // Step 3: compare the encodings of [S]B - [k]A and R.
    let expected = EdwardsPoint::vartime_double_scalar_mul_basepoint(&k, &-key, &s);
    if expected.compress() == r {
        Ok(())
    } else {
        Err(invalid)
    }
}
