//! Models made ready, and how they predict.
#![forbid(unsafe_code)]
#[cfg(target_arch = "x86_64")]
use crate::avx512::Vectors;
use crate::block::{Bytes, Sums, ROWS};
use crate::link::Output;
use crate::model::{bad, Model, Refused};
use crate::planes::{Plane, Planes};
use crate::portable::{self, Number};
use crate::shape::{Plan, Scratch};
use std::sync::Mutex;
use std::thread;

/// What evaluates nodes. Both give the same numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Without anything that a processor may lack.
    Portable,
    /// With AVX-512 F, BW and VBMI; [`Engine::best`] gives it where the processor has them.
    #[cfg(target_arch = "x86_64")]
    #[non_exhaustive]
    Avx512,
}

impl Engine {
    /// The fastest that this processor can run.
    pub fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vbmi")
        {
            return Self::Avx512;
        }
        Self::Portable
    }
}

/// The values of a feature; NaN where there is none.
#[derive(Debug, Clone, Copy)]
pub enum Column<'a> {
    /// In float32.
    Single(&'a [f32]),
    /// In float64.
    Double(&'a [f64]),
}

impl Column<'_> {
    fn rows(&self) -> usize {
        match self {
            Self::Single(values) => values.len(),
            Self::Double(values) => values.len(),
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) trait Vectors: Number {}
#[cfg(not(target_arch = "x86_64"))]
impl<T: Number> Vectors for T {}

/// A model made ready.
pub struct Forest {
    model: Model,
    planes: Vec<Plane>,
    plans: Vec<Plan>,
}

/// How a block is worked on.
#[derive(Clone, Copy)]
struct How {
    engine: Engine,
    oblivious: bool,
    output: Output,
}

impl Forest {
    /// Makes a model ready.
    pub fn new(model: Model) -> Result<Self, Refused> {
        let mut model = model.checked()?;
        let mut planes = Planes::new(&model)?;
        let single = model.single_sums;
        let bytes = |value: f64| {
            let word = if single {
                (value as f32).word()
            } else {
                value.word()
            };
            word.to_le_bytes()
        };
        let size = if single { f32::SIZE } else { f64::SIZE };
        let plans: Result<Vec<Plan>, Refused> = std::mem::take(&mut model.trees)
            .iter()
            .map(|tree| Plan::new(tree, &mut planes, size, bytes))
            .collect();
        Ok(Self {
            model,
            planes: planes.planes,
            plans: plans?,
        })
    }

    /// The model, without its trees.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The number of trees.
    pub fn trees(&self) -> usize {
        self.plans.len()
    }

    /// Values for each row of `output`: one for [`Output::Class`], else as many as the model has outputs.
    pub fn width(&self, output: Output) -> usize {
        if output == Output::Class {
            1
        } else {
            self.model.outputs
        }
    }

    /// Predictions of `rows` rows, row by row, with as many values as [`Forest::width`] says.
    ///
    /// With `oblivious` the portable engine looks nothing up; the other one never does.
    pub fn predict(
        &self,
        columns: &[Column<'_>],
        rows: usize,
        output: Output,
        engine: Engine,
        oblivious: bool,
        threads: usize,
    ) -> Result<Vec<f64>, Refused> {
        let how = How {
            engine,
            oblivious,
            output,
        };
        if columns.len() != self.model.features {
            return bad(format!(
                "{} columns for a model of {} features",
                columns.len(),
                self.model.features
            ));
        }
        if columns.iter().any(|column| column.rows() != rows) {
            return bad("a column has another number of rows");
        }
        let mut found = vec![0.0; rows * self.width(output)];
        if self.model.single_sums {
            self.all::<f32>(columns, how, threads, &mut found);
        } else {
            self.all::<f64>(columns, how, threads, &mut found);
        }
        Ok(found)
    }

    fn all<T: Total>(&self, columns: &[Column<'_>], how: How, threads: usize, out: &mut [f64]) {
        let width = self.width(how.output);
        let parts = Mutex::new(out.chunks_mut(ROWS * width).enumerate());
        let work = || {
            let mut table = Worktable::<T>::new(self);
            loop {
                // A panic of another thread ends the scope with a panic in any case.
                let part = parts.lock().ok().and_then(|mut parts| parts.next());
                let Some((number, out)) = part else { break };
                self.block(columns, number * ROWS, how, &mut table, out);
            }
        };
        thread::scope(|scope| {
            for _ in 1..threads {
                // Where no more threads can be had, those that are there do the work.
                if thread::Builder::new().spawn_scoped(scope, work).is_err() {
                    break;
                }
            }
            work();
        });
    }

    /// Predictions of the rows from `begin` on, as many as `out` has, which are no more than a block.
    fn block<T: Total>(
        &self,
        columns: &[Column<'_>],
        begin: usize,
        how: How,
        table: &mut Worktable<T>,
        out: &mut [f64],
    ) {
        let width = self.width(how.output);
        let rows = out.len() / width;
        let mut held = None;
        for (plane, bytes) in self.planes.iter().zip(&mut table.planes) {
            let column = &columns[plane.feature];
            let rounded = self.model.single_values;
            if held != Some(plane.feature) {
                table.values.take(column, begin, rows, rounded);
                held = Some(plane.feature);
            }
            if rounded || matches!(column, Column::Single(_)) {
                rank(how, plane, &plane.single, &table.values.single, bytes);
            } else {
                rank(how, plane, &plane.double, &table.values.double, bytes);
            }
        }
        let sums = &mut table.sums;
        sums.begin(&table.base);
        for plan in &self.plans {
            match how.engine {
                Engine::Portable => {
                    portable::add(plan, &table.planes, &mut table.scratch, sums, how.oblivious);
                }
                #[cfg(target_arch = "x86_64")]
                Engine::Avx512 => T::add(plan, &table.planes, &mut table.scratch, sums),
            }
        }
        for place in 0..ROWS {
            let row = match how.engine {
                Engine::Portable => place,
                #[cfg(target_arch = "x86_64")]
                Engine::Avx512 => place / 64 * 64 + T::row(place % 64),
            };
            if row >= rows {
                continue;
            }
            for (output, sum) in table.row.iter_mut().enumerate() {
                *sum = sums.of(output)[place];
            }
            T::finish(&self.model, how.output, &mut table.row);
            let out = &mut out[row * width..][..width];
            for (out, sum) in out.iter_mut().zip(&table.row) {
                *out = sum.double();
            }
        }
    }
}

/// What one thread works with.
struct Worktable<T> {
    base: Vec<T>,
    planes: Vec<Bytes>,
    scratch: Scratch,
    sums: Sums<T>,
    values: Values,
    row: Vec<T>,
}

impl<T: Total> Worktable<T> {
    fn new(forest: &Forest) -> Self {
        let base: Vec<T> = forest
            .model
            .base
            .iter()
            .map(|value| T::of(*value))
            .collect();
        Self {
            planes: vec![Bytes::ZERO; forest.planes.len()],
            scratch: Scratch::new(&forest.plans),
            sums: Sums::new(&base),
            values: Values {
                single: [0.0; ROWS],
                double: [0.0; ROWS],
            },
            row: vec![T::default(); base.len()],
            base,
        }
    }
}

/// Values of a block, zeros after its last row.
struct Values {
    single: [f32; ROWS],
    double: [f64; ROWS],
}

impl Values {
    fn take(&mut self, column: &Column<'_>, from: usize, rows: usize, rounded: bool) {
        match column {
            Column::Single(values) => {
                self.single[..rows].copy_from_slice(&values[from..from + rows]);
                self.single[rows..].fill(0.0);
            }
            Column::Double(values) if rounded => {
                for (to, value) in self.single.iter_mut().zip(&values[from..from + rows]) {
                    *to = *value as f32;
                }
                self.single[rows..].fill(0.0);
            }
            Column::Double(values) => {
                self.double[..rows].copy_from_slice(&values[from..from + rows]);
                self.double[rows..].fill(0.0);
            }
        }
    }
}

/// A number that sums are made of.
trait Total: Vectors {
    fn finish(model: &Model, output: Output, sums: &mut [Self]);
}

impl Total for f32 {
    fn finish(model: &Model, output: Output, sums: &mut [f32]) {
        if output != Output::Margin && model.divisor != 1.0 {
            sums.iter_mut().for_each(|sum| *sum /= model.divisor as f32);
        }
        model.link.single(sums, output);
    }
}

impl Total for f64 {
    fn finish(model: &Model, output: Output, sums: &mut [f64]) {
        if output != Output::Margin && model.divisor != 1.0 {
            sums.iter_mut().for_each(|sum| *sum /= model.divisor);
        }
        model.link.double(sums, output);
    }
}

fn rank<T: Vectors>(
    how: How,
    plane: &Plane,
    bounds: &crate::planes::Bounds<T>,
    values: &[T; ROWS],
    out: &mut Bytes,
) {
    match how.engine {
        Engine::Portable => portable::rank(plane, bounds, values, how.oblivious, out),
        #[cfg(target_arch = "x86_64")]
        Engine::Avx512 => T::rank(plane, bounds, values, out),
    }
}
