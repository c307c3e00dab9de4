//! Bindings of `mesatee-trees`.
use crate::errors::raise;
use mesatee_trees::{read, Column, Engine, Forest, Output, Refused};
use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;

fn refused(py: Python<'_>, refused: Refused) -> PyErr {
    let class = match refused {
        Refused::Malformed(_) => "Malformed",
        Refused::TooLarge(_) => "TooLarge",
    };
    raise(py, class, refused.to_string())
}

/// Values of a feature, in float32 or float64.
#[derive(FromPyObject)]
enum Given {
    Single(PyBuffer<f32>),
    Double(PyBuffer<f64>),
}

enum Held {
    Single(Vec<f32>),
    Double(Vec<f64>),
}

/// A model that is ready to predict.
#[pyclass(frozen, module = "mesatee._core")]
struct TreeModel {
    forest: Forest,
}

#[pymethods]
impl TreeModel {
    #[new]
    fn new(py: Python<'_>, data: PyBackedBytes) -> PyResult<Self> {
        let forest = py
            .detach(|| read::model(&data).and_then(Forest::new))
            .map_err(|error| refused(py, error))?;
        Ok(Self { forest })
    }

    #[getter]
    fn kind(&self) -> &str {
        &self.forest.model().kind
    }

    #[getter]
    fn names(&self) -> Vec<String> {
        self.forest.model().names.clone()
    }

    #[getter]
    fn classes(&self) -> Vec<String> {
        self.forest.model().classes.clone()
    }

    #[getter]
    fn features(&self) -> usize {
        self.forest.model().features
    }

    #[getter]
    fn outputs(&self) -> usize {
        self.forest.model().outputs
    }

    #[getter]
    fn trees(&self) -> usize {
        self.forest.trees()
    }

    #[getter]
    fn single_values(&self) -> bool {
        self.forest.model().single_values
    }

    #[getter]
    fn single_sums(&self) -> bool {
        self.forest.model().single_sums
    }

    /// The predictions, row by row, as the bytes of float64.
    #[pyo3(signature = (columns, rows, *, output = "response", oblivious = false, threads = 1, portable = false))]
    #[allow(clippy::too_many_arguments)]
    fn predict<'py>(
        &self,
        py: Python<'py>,
        columns: Vec<Given>,
        rows: usize,
        output: &str,
        oblivious: bool,
        threads: usize,
        portable: bool,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let output = match output {
            "margin" => Output::Margin,
            "response" => Output::Response,
            "class" => Output::Class,
            _ => {
                return Err(raise(
                    py,
                    "Malformed",
                    "output is margin, response or class",
                ))
            }
        };
        let engine = if portable {
            Engine::Portable
        } else {
            Engine::best()
        };
        // Copied, because whoever owns a buffer may write to it while the interpreter's lock is given up.
        let held: PyResult<Vec<Held>> = columns
            .into_iter()
            .map(|column| match column {
                Given::Single(buffer) => buffer.to_vec(py).map(Held::Single),
                Given::Double(buffer) => buffer.to_vec(py).map(Held::Double),
            })
            .collect();
        let held = held?;
        let found = py.detach(|| {
            let columns: Vec<Column<'_>> = held
                .iter()
                .map(|column| match column {
                    Held::Single(values) => Column::Single(values),
                    Held::Double(values) => Column::Double(values),
                })
                .collect();
            self.forest
                .predict(&columns, rows, output, engine, oblivious, threads)
        });
        let found = found.map_err(|error| refused(py, error))?;
        PyBytes::new_with(py, 8 * found.len(), |bytes| {
            for (to, value) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(&found) {
                *to = value.to_le_bytes();
            }
            Ok(())
        })
    }
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<TreeModel>()
}
