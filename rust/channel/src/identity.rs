//! This process's own certificate and key. The key is a handle: TLS asks custody for signatures and never sees the seed.

use crate::certificate::{parse_certificate, CertificateError};
use mesatee_custody::SigningKey;
use rustls::pki_types::CertificateDer;
use rustls::sign::{CertifiedKey, Signer};
use rustls::{Error, SignatureAlgorithm, SignatureScheme};
use std::sync::Arc;

/// A certificate together with its key.
#[derive(Clone)]
pub struct Identity {
    pub(crate) key: SigningKey,
    pub(crate) der: Arc<[u8]>,
    pub(crate) certified: Arc<CertifiedKey>,
}

impl Identity {
    /// Refuses a certificate that a peer would refuse for its form, or that is of another key.
    pub fn new(certificate: &[u8], key: SigningKey) -> Result<Self, CertificateError> {
        let parsed = parse_certificate(certificate)?;
        if *parsed.public() != key.public() {
            return Err(CertificateError::OtherKey);
        }
        let chain = vec![CertificateDer::from(certificate.to_vec())];
        let certified = Arc::new(CertifiedKey::new(chain, Arc::new(KeyHandle(key.clone()))));
        Ok(Self {
            key,
            der: certificate.into(),
            certified,
        })
    }
}

/// A custody key as rustls wants it.
struct KeyHandle(SigningKey);

impl std::fmt::Debug for KeyHandle {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("KeyHandle")
    }
}

impl rustls::sign::SigningKey for KeyHandle {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered
            .contains(&SignatureScheme::ED25519)
            .then(|| Box::new(KeyHandle(self.0.clone())) as Box<dyn Signer>)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ED25519
    }
}

impl Signer for KeyHandle {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(self.0.sign(message).to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate::make_certificate;

    #[test]
    fn another_keys_certificate_is_refused() {
        let (ours, other) = (
            SigningKey::generate().unwrap(),
            SigningKey::generate().unwrap(),
        );
        let der = make_certificate(&ours, "a", 0, 1, None).unwrap();
        assert!(Identity::new(&der, ours).is_ok());
        assert_eq!(
            Identity::new(&der, other).err(),
            Some(CertificateError::OtherKey)
        );
    }
}
