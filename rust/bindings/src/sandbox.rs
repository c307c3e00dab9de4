//! Bindings of `mesatee-sandbox`.
use crate::errors::raise;
use crate::sealing::file_of;
use mesatee_sandbox as sandbox;
use pyo3::prelude::*;
use std::collections::BTreeMap;

fn failed(py: Python<'_>, error: &sandbox::SandboxError) -> PyErr {
    raise(py, "SandboxFailed", error.to_string())
}

#[pyfunction]
fn sandbox_layers(py: Python<'_>) -> BTreeMap<&'static str, String> {
    py.detach(sandbox::sandbox_layers)
}

#[pyfunction]
fn enter_namespaces(
    py: Python<'_>,
    read_paths: Vec<String>,
    late: &str,
) -> PyResult<(Vec<&'static str>, Option<i32>)> {
    sandbox::enter_namespaces(&read_paths, late).map_err(|error| failed(py, &error))
}

#[pyfunction]
fn prepare_sandbox(
    py: Python<'_>,
    read_paths: Vec<String>,
    keep_fds: Vec<u32>,
) -> PyResult<Vec<&'static str>> {
    sandbox::prepare_sandbox(&read_paths, &keep_fds).map_err(|error| failed(py, &error))
}

#[pyfunction]
fn narrow_sandbox(py: Python<'_>, read_paths: Vec<String>) -> PyResult<()> {
    sandbox::narrow_sandbox(&read_paths).map_err(|error| failed(py, &error))
}

#[pyfunction]
fn enter_sandbox(
    py: Python<'_>,
    address_space: u64,
    compiled: Option<u64>,
    cpu_seconds: u64,
    file_bytes: u64,
    threads: u64,
    keep_fds: Vec<u32>,
) -> PyResult<Vec<&'static str>> {
    sandbox::enter_sandbox(&sandbox::Confinement {
        address_space,
        compiled,
        cpu_seconds,
        file_bytes,
        threads,
        keep_fds: &keep_fds,
    })
    .map_err(|error| failed(py, &error))
}

#[pyfunction]
fn prepare_zygote(py: Python<'_>) -> PyResult<()> {
    sandbox::prepare_zygote().map_err(|error| failed(py, &error))
}

#[pyfunction]
#[pyo3(signature = (maps = None))]
fn collapse_memory(py: Python<'_>, maps: Option<i32>) -> PyResult<usize> {
    let maps = maps.map(|fd| file_of(py, fd)).transpose()?;
    Ok(py.detach(|| sandbox::collapse_memory(maps)))
}

#[pyfunction]
fn memfd(py: Python<'_>, name: &str) -> PyResult<i32> {
    sandbox::memfd(name).map_err(|error| failed(py, &error))
}

#[pyfunction]
fn memfd_seal(py: Python<'_>, fd: i32) -> PyResult<()> {
    sandbox::memfd_seal(fd).map_err(|error| failed(py, &error))
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(sandbox_layers, module)?)?;
    module.add_function(wrap_pyfunction!(enter_namespaces, module)?)?;
    module.add_function(wrap_pyfunction!(enter_sandbox, module)?)?;
    module.add_function(wrap_pyfunction!(prepare_sandbox, module)?)?;
    module.add_function(wrap_pyfunction!(narrow_sandbox, module)?)?;
    module.add_function(wrap_pyfunction!(prepare_zygote, module)?)?;
    module.add_function(wrap_pyfunction!(collapse_memory, module)?)?;
    module.add_function(wrap_pyfunction!(memfd, module)?)?;
    module.add_function(wrap_pyfunction!(memfd_seal, module)?)
}
