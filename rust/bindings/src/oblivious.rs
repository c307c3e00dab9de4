//! Bindings of `mesatee-oblivious`.
use crate::errors::raise;
use mesatee_oblivious::matching::Wanted;
use mesatee_oblivious::rows::{matched, Column, Rows, Unfit};
use mesatee_oblivious::sets::combined;
use mesatee_oblivious::Engine;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;

pub(crate) fn refused(py: Python<'_>, unfit: Unfit) -> PyErr {
    raise(py, "Malformed", unfit.to_string())
}

pub(crate) fn engine(portable: bool) -> Engine {
    if portable {
        Engine::Portable
    } else {
        Engine::best()
    }
}

/// A key for the tags of one run.
fn secret(py: Python<'_>) -> PyResult<[u8; 16]> {
    let mut secret = [0; 16];
    getrandom::fill(&mut secret).map_err(|_| raise(py, "SandboxFailed", "no random bytes"))?;
    Ok(secret)
}

pub(crate) fn wanted(only_first: bool) -> Wanted {
    if only_first {
        Wanted::OnlyFirst
    } else {
        Wanted::Common
    }
}

#[derive(FromPyObject)]
enum Given {
    Text(PyBackedBytes, PyBackedBytes, usize),
    Int(PyBackedBytes),
}

/// Keys of several columns, as rows of words.
#[pyclass(frozen, module = "mesatee._core")]
pub(crate) struct KeyRows {
    pub(crate) rows: Rows,
    /// For each column its first word, and how many words a text may fill; none for integers.
    pub(crate) columns: Vec<(usize, Option<usize>)>,
}

#[pymethods]
impl KeyRows {
    #[new]
    fn new(py: Python<'_>, columns: Vec<Given>, valid: PyBackedBytes) -> PyResult<Self> {
        let mut places = Vec::with_capacity(columns.len());
        let mut at = 0;
        for column in &columns {
            let text = match column {
                Given::Int(_) => None,
                Given::Text(_, _, words) if *words <= mesatee_oblivious::rows::WIDTH => {
                    Some(*words)
                }
                Given::Text(..) => return Err(refused(py, Unfit::TooWide)),
            };
            places.push((at, text));
            at += text.unwrap_or(0) + 1;
        }
        let rows = py.detach(|| {
            let given: Vec<Column<'_>> = columns
                .iter()
                .map(|column| match column {
                    Given::Int(values) => Column::Int(values),
                    Given::Text(data, offsets, words) => Column::Text(data, offsets, *words),
                })
                .collect();
            Rows::new(&given, valid.to_vec())
        });
        let rows = rows.map_err(|unfit| refused(py, unfit))?;
        Ok(Self {
            rows,
            columns: places,
        })
    }

    fn __len__(&self) -> usize {
        self.rows.len()
    }

    /// The rows whose mark is 1, in their order.
    #[pyo3(signature = (marks, *, threads = 1, portable = false))]
    fn marked(
        &self,
        py: Python<'_>,
        marks: PyBackedBytes,
        threads: usize,
        portable: bool,
    ) -> PyResult<Self> {
        let rows = py
            .detach(|| self.rows.marked(&marks, engine(portable), threads))
            .map_err(|unfit| refused(py, unfit))?;
        Ok(Self {
            rows,
            columns: self.columns.clone(),
        })
    }

    /// The rows in ascending order of their values.
    #[pyo3(signature = (*, threads = 1, portable = false))]
    fn sorted(&self, py: Python<'_>, threads: usize, portable: bool) -> Self {
        let rows = py.detach(|| self.rows.sorted(engine(portable), threads));
        Self {
            rows,
            columns: self.columns.clone(),
        }
    }

    /// The columns: of integers their bytes, of text its bytes and offsets.
    fn columns<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let bytes = |data: Vec<u8>| PyBytes::new(py, &data);
        self.columns
            .iter()
            .map(|(at, text)| match text {
                None => Ok(bytes(py.detach(|| self.rows.int(*at))).into_any()),
                Some(words) => {
                    let (data, offsets) = py.detach(|| self.rows.text(*at, *words));
                    Ok((bytes(data), bytes(offsets)).into_pyobject(py)?.into_any())
                }
            })
            .collect()
    }
}

/// Marks of the wanted rows for each party, marks of the first of each key for the first party, and the numbers of keys: of
/// each party, wanted, and all.
type Found<'py> = (
    Vec<Bound<'py, PyBytes>>,
    Bound<'py, PyBytes>,
    Vec<u64>,
    u64,
    u64,
);

#[pyfunction]
#[pyo3(signature = (parties, *, only_first = false, threads = 1, portable = false))]
fn oblivious_match<'py>(
    py: Python<'py>,
    parties: Vec<PyRef<'py, KeyRows>>,
    only_first: bool,
    threads: usize,
    portable: bool,
) -> PyResult<Found<'py>> {
    let rows: Vec<&Rows> = parties.iter().map(|party| &party.rows).collect();
    let secret = secret(py)?;
    let found = py
        .detach(|| {
            matched(
                &rows,
                &secret,
                wanted(only_first),
                engine(portable),
                threads,
            )
        })
        .map_err(|unfit| refused(py, unfit))?;
    let bytes = |marks: &Vec<u8>| PyBytes::new(py, marks);
    Ok((
        found.wanted.iter().map(bytes).collect(),
        bytes(&found.first),
        found.distinct,
        found.keys,
        found.union,
    ))
}

/// The wanted keys in ascending order, and the numbers of keys: of each party, wanted, and all.
type Combined = (Option<KeyRows>, Vec<u64>, u64, u64);

#[pyfunction]
#[pyo3(signature = (parties, *, only_first = false, listed = true, threads = 1, portable = false))]
fn oblivious_sets(
    py: Python<'_>,
    parties: Vec<PyRef<'_, KeyRows>>,
    only_first: bool,
    listed: bool,
    threads: usize,
    portable: bool,
) -> PyResult<Combined> {
    let rows: Vec<&Rows> = parties.iter().map(|party| &party.rows).collect();
    let secret = secret(py)?;
    let found = py
        .detach(|| {
            let (wanted, engine) = (wanted(only_first), engine(portable));
            combined(&rows, &secret, wanted, listed, engine, threads)
        })
        .map_err(|unfit| refused(py, unfit))?;
    let keys = found.keys.map(|rows| KeyRows {
        rows,
        columns: parties[0].columns.clone(),
    });
    Ok((keys, found.distinct, found.wanted, found.union))
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<KeyRows>()?;
    module.add_function(wrap_pyfunction!(oblivious_match, module)?)?;
    module.add_function(wrap_pyfunction!(oblivious_sets, module)?)
}
