//! A symmetric key in k-of-n shares (Shamir, over GF(256) by `blahaj`), each sealed as an age file to its holder.
//!
//! A share's record is `MAGIC || context || x || y`. The context names the set that the share belongs to, so that shares
//! of two sets are never combined. The library's tables are read at places that depend on the secret: a share is made
//! and combined once in the life of a service, inside its enclave, not on request.

use crate::agekey::{self, AgeKey};
use crate::error::SealingError;
use crate::header;
use crate::open::{fill, start, OpenWith};
use crate::wrap::{wrap, HpkeKey};
use age::{Encryptor, Recipient};
use aws_lc_rs::digest::{digest, SHA256};
use blahaj::{Share as Point, Sharks};
use mesatee_custody::{SecretBytes, SecretKey, SECRET_KEY_BYTES};
use std::collections::HashSet;
use std::io::{Cursor, Write};
use std::sync::Arc;
use zeroize::Zeroizing;

/// The most shares of one key: GF(256) has 255 points beside the secret's.
pub const SHARES: usize = 255;
/// Length of a context in bytes.
pub const CONTEXT_BYTES: usize = 32;
/// Length of a share's record in bytes.
pub const SHARE_BYTES: usize = MAGIC.len() + CONTEXT_BYTES + POINT_BYTES;

const MAGIC: &[u8] = b"mesatee share v1";
const POINT_BYTES: usize = 1 + SECRET_KEY_BYTES;
/// A key that one party alone can recover is not shared.
const FEWEST: u8 = 2;

/// What `split` made for one holder.
pub struct SealedShare {
    /// The share's number, from 1.
    pub index: u8,
    /// SHA-256 of the record. It says nothing of the share, which is 32 uniformly random bytes.
    pub commitment: [u8; 32],
    /// An age file.
    pub sealed: Vec<u8>,
}

/// An open share, by handle.
#[derive(Clone)]
pub struct Share(Arc<SecretBytes>);

impl Share {
    fn of(record: SecretBytes) -> Result<Self, SealingError> {
        let fits = record.with(|bytes| {
            bytes.len() == SHARE_BYTES && bytes.starts_with(MAGIC) && point(bytes)[0] != 0
        });
        if !fits {
            return Err(SealingError::malformed("not a share of version 1"));
        }
        Ok(Self(Arc::new(record)))
    }

    /// Open the age file of a share.
    pub fn open(sealed: &[u8], key: &AgeKey) -> Result<Self, SealingError> {
        let mut source = Cursor::new(sealed);
        let head = header::take(&mut source)?;
        let mut reader = start(header::parse(head, source)?, &OpenWith::Age(key.clone()))?;
        let mut room = SecretBytes::zeroed(SHARE_BYTES + 1).ok_or_else(SealingError::no_memory)?;
        let len = fill(&mut reader, room.as_mut())?;
        let record = room
            .with(|bytes| SecretBytes::copy_of(&bytes[..len]))
            .ok_or_else(SealingError::no_memory)?;
        Self::of(record)
    }

    /// Open what [`Self::wrap`] made.
    pub fn unwrap(
        by: &HpkeKey,
        wrap: &[u8],
        info: &[u8],
        aad: &[u8],
    ) -> Result<Self, SealingError> {
        Self::of(by.unwrap(wrap, info, aad)?)
    }

    /// Wrap it to the public key `to` of the enclave that recovers.
    pub fn wrap(&self, to: &[u8], info: &[u8], aad: &[u8]) -> Result<Vec<u8>, SealingError> {
        self.0.with(|record| wrap(to, record, info, aad))
    }

    /// The share's number, from 1.
    pub fn index(&self) -> u8 {
        self.0.with(|record| point(record)[0])
    }

    /// Which set it belongs to.
    pub fn context(&self) -> [u8; CONTEXT_BYTES] {
        let mut out = [0; CONTEXT_BYTES];
        self.0
            .with(|record| out.copy_from_slice(&record[MAGIC.len()..MAGIC.len() + CONTEXT_BYTES]));
        out
    }

    /// SHA-256 of the record.
    pub fn commitment(&self) -> [u8; 32] {
        self.0.with(commit)
    }
}

fn point(record: &[u8]) -> &[u8] {
    &record[MAGIC.len() + CONTEXT_BYTES..]
}

fn commit(record: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, record).as_ref());
    out
}

/// Split `key` so that any `k` of the holders, one per age recipient, can recover it and fewer learn nothing.
pub fn split(
    key: &SecretKey,
    k: u8,
    recipients: &[String],
    context: &[u8],
) -> Result<Vec<SealedShare>, SealingError> {
    if context.len() != CONTEXT_BYTES {
        return Err(SealingError::malformed("a context has 32 bytes"));
    }
    if recipients.len() > SHARES {
        return Err(SealingError::too_large("more than 255 shares"));
    }
    if k < FEWEST || usize::from(k) > recipients.len() {
        return Err(SealingError::malformed(
            "shares need at least 2 holders to recover, and no more than there are",
        ));
    }
    if recipients.iter().collect::<HashSet<_>>().len() != recipients.len() {
        return Err(SealingError::malformed("a recipient holds one share"));
    }
    let points: Vec<Point> =
        key.with_bytes(|secret| Sharks(k).dealer(secret).take(recipients.len()).collect());
    points
        .iter()
        .zip(recipients)
        .map(|(found, recipient)| {
            let encoded = Zeroizing::new(Vec::<u8>::from(found));
            let mut record =
                SecretBytes::zeroed(SHARE_BYTES).ok_or_else(SealingError::no_memory)?;
            let (magic, rest) = record.as_mut().split_at_mut(MAGIC.len());
            let (set, point) = rest.split_at_mut(CONTEXT_BYTES);
            magic.copy_from_slice(MAGIC);
            set.copy_from_slice(context);
            point.copy_from_slice(&encoded);
            record.with(|bytes| {
                Ok(SealedShare {
                    index: encoded[0],
                    commitment: commit(bytes),
                    sealed: seal(bytes, recipient)?,
                })
            })
        })
        .collect()
}

fn seal(record: &[u8], recipient: &str) -> Result<Vec<u8>, SealingError> {
    let lost = "sealing failed";
    let to = agekey::recipient(recipient)?;
    let encryptor = Encryptor::with_recipients(std::iter::once(&to as &dyn Recipient))
        .map_err(|_| SealingError::malformed("the share cannot be sealed to this recipient"))?;
    let mut writer = encryptor
        .wrap_output(Vec::new())
        .map_err(|error| SealingError::uncarry(error, lost))?;
    writer
        .write_all(record)
        .map_err(|error| SealingError::uncarry(error, lost))?;
    writer
        .finish()
        .map_err(|error| SealingError::uncarry(error, lost))
}

/// The key of `k` or more shares of one set.
///
/// A share that was altered gives another key: the caller compares commitments first.
pub fn combine(k: u8, shares: &[Share]) -> Result<SecretKey, SealingError> {
    if k < FEWEST || shares.len() < usize::from(k) {
        return Err(SealingError::key_refused("too few shares"));
    }
    let sets: HashSet<_> = shares.iter().map(Share::context).collect();
    if sets.len() != 1 {
        return Err(SealingError::key_refused("shares of different sets"));
    }
    let numbers: HashSet<_> = shares.iter().map(Share::index).collect();
    if numbers.len() != shares.len() {
        return Err(SealingError::key_refused("a share was given twice"));
    }
    let points = shares
        .iter()
        .map(|share| share.0.with(|record| Point::try_from(point(record))))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| SealingError::malformed("not a share"))?;
    let secret = Sharks(k)
        .recover(&points)
        .map(Zeroizing::new)
        .map_err(|_| SealingError::key_refused("the shares do not combine"))?;
    let bytes = SecretBytes::copy_of(&secret).ok_or_else(SealingError::no_memory)?;
    SecretKey::from_bytes(bytes).map_err(|_| SealingError::malformed("not a key of 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(a: &SecretKey, b: &SecretKey) -> bool {
        b.open(&a.seal(b"x", b"").unwrap(), b"").is_ok()
    }

    #[test]
    fn any_k_recover_and_fewer_do_not() {
        let holders: Vec<AgeKey> = (0..4).map(|_| AgeKey::generate().unwrap()).collect();
        let recipients: Vec<String> = holders
            .iter()
            .map(|key| key.recipient().to_owned())
            .collect();
        let key = SecretKey::generate().unwrap();
        let made = split(&key, 3, &recipients, &[7; 32]).unwrap();
        let shares: Vec<Share> = made
            .iter()
            .zip(&holders)
            .map(|(share, holder)| Share::open(&share.sealed, holder).unwrap())
            .collect();
        for (share, sealed) in shares.iter().zip(&made) {
            assert_eq!(share.index(), sealed.index);
            assert_eq!(share.commitment(), sealed.commitment);
            assert_eq!(share.context(), [7; 32]);
        }
        for left_out in 0..4 {
            let mut some = shares.clone();
            some.remove(left_out);
            assert!(same(&combine(3, &some).unwrap(), &key));
            some.pop();
            assert!(combine(3, &some).is_err());
            // Who lies about k gets another key, not this one.
            assert!(!same(&combine(2, &some).unwrap(), &key));
        }
        assert!(combine(
            3,
            &[shares[0].clone(), shares[1].clone(), shares[1].clone()]
        )
        .is_err());
        assert!(Share::open(&made[0].sealed, &holders[1]).is_err());
    }

    #[test]
    fn sets_do_not_mix_and_parameters_are_checked() {
        let holders: Vec<AgeKey> = (0..2).map(|_| AgeKey::generate().unwrap()).collect();
        let to: Vec<String> = holders
            .iter()
            .map(|key| key.recipient().to_owned())
            .collect();
        let key = SecretKey::generate().unwrap();
        let open = |context: u8, at: usize| {
            let made = split(&key, 2, &to, &[context; 32]).unwrap();
            Share::open(&made[at].sealed, &holders[at]).unwrap()
        };
        assert!(combine(2, &[open(1, 0), open(2, 1)]).is_err());
        assert!(split(&key, 1, &to, &[0; 32]).is_err());
        assert!(split(&key, 3, &to, &[0; 32]).is_err());
        assert!(split(&key, 2, &to, &[0; 31]).is_err());
        assert!(split(&key, 2, &[to[0].clone(), to[0].clone()], &[0; 32]).is_err());
        let enclave = HpkeKey::generate().unwrap();
        let share = open(1, 0);
        let made = share.wrap(enclave.public(), b"i", b"a").unwrap();
        let again = Share::unwrap(&enclave, &made, b"i", b"a").unwrap();
        assert_eq!(again.commitment(), share.commitment());
        assert!(Share::unwrap(&enclave, &made, b"i", b"b").is_err());
    }
}
