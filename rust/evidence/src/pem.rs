//! Certificates in PEM (RFC 7468).
use crate::{EvidenceError, CERTIFICATE_BYTES, CHAIN_CERTIFICATES, PEM_BYTES};
use data_encoding::BASE64;

const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
const END: &[u8] = b"-----END CERTIFICATE-----";

/// DER of every CERTIFICATE block, in order; text around the blocks and white space in them are passed over.
///
/// No block at all is an empty list, for the caller knows what else the bytes may be.
pub fn pem_certificates(text: &[u8]) -> Result<Vec<Vec<u8>>, EvidenceError> {
    if text.len() > PEM_BYTES {
        return Err(EvidenceError::TooLarge("a PEM text has 1 MiB at most"));
    }
    let (mut rest, mut found) = (text, Vec::new());
    while let Some(start) = find(rest, BEGIN) {
        let body = &rest[start + BEGIN.len()..];
        let Some(end) = find(body, END) else {
            return Err(EvidenceError::Malformed("a PEM block without its end"));
        };
        if found.len() == CHAIN_CERTIFICATES {
            return Err(EvidenceError::TooLarge(
                "a PEM text has 16 certificates at most",
            ));
        }
        found.push(decode(&body[..end])?);
        rest = &body[end + END.len()..];
    }
    Ok(found)
}

fn decode(body: &[u8]) -> Result<Vec<u8>, EvidenceError> {
    let dense: Vec<u8> = body
        .iter()
        .copied()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    let der = BASE64
        .decode(&dense)
        .map_err(|_| EvidenceError::Malformed("a PEM block that is not base64"))?;
    if der.len() > CERTIFICATE_BYTES {
        return Err(EvidenceError::TooLarge("a certificate has 64 KiB at most"));
    }
    Ok(der)
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_in_order() {
        let block = |body: &str| {
            format!("-----BEGIN CERTIFICATE-----\r\n{body}\n-----END CERTIFICATE-----\n")
        };
        let text = format!("a chain\n{}between{}\0", block("AQ =\t="), block("Ag=="));
        assert_eq!(
            pem_certificates(text.as_bytes()),
            Ok(vec![vec![1], vec![2]])
        );
        assert_eq!(pem_certificates(b"nothing"), Ok(vec![]));
        let most = block("AQ==").repeat(CHAIN_CERTIFICATES);
        assert_eq!(
            pem_certificates(most.as_bytes()).map(|all| all.len()),
            Ok(16)
        );
        for (bad, large) in [
            (BEGIN.to_vec(), false),
            (block("!").into_bytes(), false),
            (
                block("AQ==").repeat(CHAIN_CERTIFICATES + 1).into_bytes(),
                true,
            ),
            (vec![b' '; PEM_BYTES + 1], true),
        ] {
            match pem_certificates(&bad) {
                Err(EvidenceError::TooLarge(_)) => assert!(large),
                Err(EvidenceError::Malformed(_)) => assert!(!large),
                other => panic!("{other:?}"),
            }
        }
    }
}
