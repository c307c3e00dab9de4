//! Signatures that were seen to hold.
//!
//! Whether a signature holds depends on nothing but its four inputs, so an answer that was found once is as good as
//! the same computation again. What it means depends on time and trust, and neither is remembered. Signatures that
//! do not hold are not remembered either: only who has a key can fill the memory.
use crate::{signature::verify_signature, EvidenceError};
use aws_lc_rs::digest;
use std::collections::HashSet;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

/// Signatures that are remembered (`protocol.limits.SIGNATURES_CACHED`): those of the endorsements of a few hundred
/// machines.
pub const SIGNATURES_CACHED: usize = 4096;

type Digest = [u8; digest::SHA256_OUTPUT_LEN];

/// Two generations, of which the older is dropped whole: what is used stays, and no list has to be kept in order.
#[derive(Default)]
struct Memory {
    young: HashSet<Digest>,
    old: HashSet<Digest>,
}

impl Memory {
    fn holds(&mut self, name: &Digest) -> bool {
        if self.young.contains(name) {
            return true;
        }
        let found = self.old.contains(name);
        if found {
            self.remember(*name);
        }
        found
    }

    fn remember(&mut self, name: Digest) {
        if self.young.len() >= SIGNATURES_CACHED / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(name);
    }
}

static MEMORY: LazyLock<Mutex<Memory>> = LazyLock::new(Mutex::default);

fn memory() -> MutexGuard<'static, Memory> {
    // A set of digests is whole at every point at which its holder could have died.
    MEMORY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One digest for all inputs. Each but the last is preceded by its length, so that none can borrow from its neighbour.
fn name_of(algorithm: &str, spki: &[u8], signature: &[u8], message: &[u8]) -> Digest {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in [algorithm.as_bytes(), spki, signature] {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    context.update(message);
    let mut name = Digest::default();
    name.copy_from_slice(context.finish().as_ref());
    name
}

/// As `verify_signature`, for what comes again and again: that it holds is remembered.
pub fn verify_lasting_signature(
    algorithm: &str,
    spki: &[u8],
    signature: &[u8],
    message: &[u8],
) -> Result<(), EvidenceError> {
    let name = name_of(algorithm, spki, signature, message);
    if memory().holds(&name) {
        return Ok(());
    }
    verify_signature(algorithm, spki, signature, message)?;
    memory().remember(name);
    Ok(())
}

/// Verify everything anew from now on.
pub fn forget_signatures() {
    *memory() = Memory::default();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> Digest {
        name_of("ed25519", b"key", b"signature", &number.to_be_bytes())
    }

    #[test]
    fn the_memory_is_bounded_and_keeps_what_is_used() {
        let mut memory = Memory::default();
        memory.remember(name(0));
        for number in 1..3 * SIGNATURES_CACHED {
            memory.remember(name(number));
            assert!(memory.holds(&name(0)));
            assert!(memory.young.len() + memory.old.len() <= SIGNATURES_CACHED);
        }
        assert!(!memory.holds(&name(1)));
    }

    #[test]
    fn no_input_borrows_from_its_neighbour() {
        let one = name_of("ed25519", b"ab", b"c", b"d");
        assert_ne!(one, name_of("ed25519", b"a", b"bc", b"d"));
        assert_ne!(one, name_of("ed25519", b"ab", b"", b"cd"));
        assert_ne!(one, name_of("ed2551", b"9ab", b"c", b"d"));
    }

    #[test]
    fn what_does_not_hold_is_not_remembered() {
        for _ in 0..2 {
            let found = verify_lasting_signature("ed25519", b"no key", &[0; 64], b"m");
            assert!(found.is_err());
        }
    }
}
