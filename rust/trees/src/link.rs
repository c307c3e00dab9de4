//! What becomes of the sums of a row.
#![forbid(unsafe_code)]

/// What the objective makes of its sums.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Link {
    /// Nothing.
    Identity,
    /// Logistic function of this times each sum.
    Sigmoid(f64),
    /// Exponential function.
    Exp,
    /// Softmax over all sums.
    Softmax,
    /// The square of each sum, with its sign (`sqrt` of LightGBM).
    SignedSquare,
    /// ln(1 + exp(x)) (`cross_entropy_lambda` of LightGBM).
    Log1pExp,
    /// 1 for sums above zero, else 0 (`binary:hinge` of XGBoost).
    Step,
    /// The sums are probabilities, of all classes or of the second of two (forests).
    Probabilities,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// The sums as they are.
    Margin,
    /// After the link.
    Response,
    /// The class: the first with the largest sum, or for one sum whether the response is above one half.
    Class,
}

impl Link {
    /// Turns the sums of one row into what is asked for; for [`Output::Class`] only the first value is set.
    pub(crate) fn single(self, sums: &mut [f32], output: Output) {
        if output == Output::Class && sums.len() > 1 {
            sums[0] = first_largest(sums) as f32;
            return;
        }
        if output != Output::Margin {
            match self {
                Self::Identity | Self::Probabilities => {}
                // As XGBoost does it, which keeps the divisor away from zero.
                Self::Sigmoid(scale) => {
                    for x in &mut *sums {
                        *x = 1.0
                            / (exp(f64::from((-*x * scale as f32).min(88.7))) as f32 + 1.0 + 1e-16);
                    }
                }
                Self::Exp => sums.iter_mut().for_each(|x| *x = exp(f64::from(*x)) as f32),
                Self::Step => sums
                    .iter_mut()
                    .for_each(|x| *x = f32::from(u8::from(*x > 0.0))),
                Self::SignedSquare => sums.iter_mut().for_each(|x| *x *= x.abs()),
                Self::Log1pExp => sums
                    .iter_mut()
                    .for_each(|x| *x = (exp(f64::from(*x)) as f32).ln_1p()),
                Self::Softmax => {
                    let most = sums.iter().copied().fold(f32::MIN, f32::max);
                    let mut whole = 0.0f64;
                    for x in &mut *sums {
                        *x = exp(f64::from(*x - most)) as f32;
                        whole += f64::from(*x);
                    }
                    sums.iter_mut().for_each(|x| *x /= whole as f32);
                }
            }
        }
        if output == Output::Class {
            sums[0] = f32::from(u8::from(sums[0] > 0.5));
        }
    }

    /// The same in float64.
    pub(crate) fn double(self, sums: &mut [f64], output: Output) {
        if output == Output::Class && sums.len() > 1 {
            sums[0] = first_largest(sums) as f64;
            return;
        }
        if output != Output::Margin {
            match self {
                Self::Identity | Self::Probabilities => {}
                Self::Sigmoid(scale) => sums
                    .iter_mut()
                    .for_each(|x| *x = 1.0 / (1.0 + exp(-scale * *x))),
                Self::Exp => sums.iter_mut().for_each(|x| *x = exp(*x)),
                Self::Step => sums
                    .iter_mut()
                    .for_each(|x| *x = f64::from(u8::from(*x > 0.0))),
                Self::SignedSquare => sums.iter_mut().for_each(|x| *x *= x.abs()),
                Self::Log1pExp => sums.iter_mut().for_each(|x| *x = exp(*x).ln_1p()),
                Self::Softmax => {
                    let most = sums.iter().copied().fold(f64::MIN, f64::max);
                    let mut whole = 0.0;
                    for x in &mut *sums {
                        *x = exp(*x - most);
                        whole += *x;
                    }
                    sums.iter_mut().for_each(|x| *x /= whole);
                }
            }
        }
        if output == Output::Class {
            sums[0] = f64::from(u8::from(sums[0] > 0.5));
        }
    }
}

fn first_largest<T: PartialOrd + Copy>(sums: &[T]) -> usize {
    let (mut found, mut most) = (0, sums[0]);
    for (at, value) in sums.iter().enumerate() {
        let chosen = 0usize.wrapping_sub(std::hint::black_box(usize::from(*value > most)));
        found ^= chosen & (found ^ at);
        most = if *value > most { *value } else { most };
    }
    found
}

/// The exponential function without tables and branches, which libraries have; to about one unit in the last place.
///
/// x = n ln 2 + r with |r| <= ln(2) / 2; the series of exp(r) to r^13 (Cody and Waite, 1980, chapter 6).
fn exp(x: f64) -> f64 {
    const ROUND: f64 = 6_755_399_441_055_744.0;
    const LN2_HIGH: f64 = 6.931_471_803_691_238e-1;
    const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    const INVERSE_FACTORIALS: [f64; 14] = {
        let mut found = [1.0; 14];
        let (mut at, mut factorial) = (1, 1.0);
        while at < 14 {
            factorial *= at as f64;
            found[at] = 1.0 / factorial;
            at += 1;
        }
        found
    };
    // Beyond these the result is infinite, or zero.
    let x = x.clamp(-746.0, 710.0);
    // Adding it leaves the nearest integer in the lowest bits.
    let shifted = x * std::f64::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let rest = (x - whole * LN2_HIGH) - whole * LN2_LOW;
    let series = INVERSE_FACTORIALS
        .iter()
        .rev()
        .fold(0.0, |sum, part| sum * rest + part);
    let power = shifted.to_bits() as i32;
    let half = power >> 1;
    let two_to = |n: i32| f64::from_bits(((n + 1023) as u64) << 52);
    series * two_to(half) * two_to(power - half)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_that_of_the_library() {
        for step in -7_600..=7_200 {
            let x = f64::from(step) / 10.0 + 0.0123;
            let (ours, theirs) = (exp(x), x.exp());
            let near = (ours - theirs).abs() <= 4e-16 * theirs + f64::from_bits(1);
            assert!(near || ours == theirs, "{x}: {ours} {theirs}");
        }
        assert_eq!(
            (exp(0.0), exp(1e300), exp(-1e300)),
            (1.0, f64::INFINITY, 0.0)
        );
        assert!(exp(f64::NAN).is_nan());
    }

    #[test]
    fn classes_are_the_first_with_the_largest_sum() {
        let mut sums = [1.0, 3.0, 3.0, -1.0];
        Link::Softmax.double(&mut sums, Output::Class);
        assert_eq!(sums[0], 1.0);
        let mut one = [0.2f32];
        Link::Sigmoid(1.0).single(&mut one, Output::Class);
        assert_eq!(one[0], 1.0);
    }
}
