//! Bindings of `mesatee-spill`: sets that are matched in sealed pages of a file.
use crate::errors::raise;
use crate::oblivious::{engine, refused, wanted, KeyRows};
use crate::sealing::file_of;
use mesatee_oblivious::external::{external, Broken, External};
use mesatee_oblivious::rows::Unfit;
use mesatee_spill::Scratch;
use pyo3::prelude::*;
use std::sync::Mutex;

fn broken(py: Python<'_>, error: Broken) -> PyErr {
    let class = match error {
        Broken::Altered => "SealedDataCorrupt",
        Broken::Storage(_) => "Unavailable",
    };
    raise(py, class, error.to_string())
}

/// Sets of keys that are matched outside of memory.
#[pyclass(frozen, module = "mesatee._core")]
struct KeySpill {
    sets: Mutex<Box<dyn External>>,
    columns: Vec<(usize, Option<usize>)>,
}

impl KeySpill {
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut dyn External) -> Result<T, Broken> + Send,
    ) -> PyResult<T> {
        py.detach(|| match self.sets.lock() {
            Ok(mut sets) => work(&mut **sets),
            Err(_) => Err(Broken::Storage(std::io::Error::other(
                "an earlier call ended early",
            ))),
        })
        .map_err(|error| broken(py, error))
    }
}

#[pymethods]
impl KeySpill {
    #[new]
    #[pyo3(signature = (fd, like, *, hold_bytes, file_bytes, threads = 1, portable = false))]
    fn new(
        py: Python<'_>,
        fd: i32,
        like: PyRef<'_, KeyRows>,
        hold_bytes: usize,
        file_bytes: u64,
        threads: usize,
        portable: bool,
    ) -> PyResult<Self> {
        let file = file_of(py, fd)?;
        // The words of a page are known only when the shape of the keys is; a failure is said afterwards.
        let key = Scratch::key().map_err(|error| broken(py, Broken::Storage(error)))?;
        let store = |words| Scratch::new(file, key, words, file_bytes);
        let sets = external(&like.rows, hold_bytes, engine(portable), threads, store)
            .map_err(|unfit| match unfit {
                Unfit::TooWide => raise(
                    py,
                    "Malformed",
                    "spilled keys have at most 32 bytes, and pages need some memory: allow the task more of it",
                ),
                other => refused(py, other),
            })?;
        Ok(Self {
            sets: Mutex::new(sets),
            columns: like.columns.clone(),
        })
    }

    /// Takes in rows of a party.
    fn add(&self, py: Python<'_>, party: usize, rows: PyRef<'_, KeyRows>) -> PyResult<()> {
        if rows.columns != self.columns || party >= mesatee_oblivious::matching::PARTIES {
            return Err(refused(py, Unfit::Parties));
        }
        let rows = &rows.rows;
        self.with(py, |sets| sets.add(party, rows))
    }

    /// The numbers of keys: of each party, wanted, and all.
    #[pyo3(signature = (parties, *, only_first = false, listed = true))]
    fn combine(
        &self,
        py: Python<'_>,
        parties: usize,
        only_first: bool,
        listed: bool,
    ) -> PyResult<(Vec<u64>, u64, u64)> {
        if parties == 0 || parties > mesatee_oblivious::matching::PARTIES {
            return Err(refused(py, Unfit::Parties));
        }
        let found = self.with(py, |sets| sets.combine(parties, wanted(only_first), listed))?;
        Ok((found.distinct, found.wanted, found.union))
    }

    /// The next wanted keys; None at the end.
    fn take(&self, py: Python<'_>) -> PyResult<Option<KeyRows>> {
        let rows = self.with(py, |sets| sets.next())?;
        Ok(rows.map(|rows| KeyRows {
            rows,
            columns: self.columns.clone(),
        }))
    }
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<KeySpill>()
}
