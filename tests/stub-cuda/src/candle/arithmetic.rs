//! Number by number: casts, and operations on one and on two.

use half::bf16;

use super::number::{Number, with_type};
use super::{Arguments, Run};

pub(super) fn find(does: &str, dtype: &str) -> Option<Run> {
    if does == "affine" {
        return with_type!(dtype, ["f32" = f32, "f64" = f64], T => affine::<T>());
    }
    with_type!(dtype, ["f32" = f32, "bf16" = bf16, "f64" = f64], T => {
        match (on_one(does), on_two(does)) {
            (Some(operation), _) => unary::<T>(operation),
            (_, Some(operation)) => binary::<T>(operation),
            _ => return None,
        }
    })
}

/// From a type to a type.
pub(super) fn cast(from: &str, to: &str) -> Option<Run> {
    fn cast_from<S: Number>(to: &str) -> Option<Run> {
        with_type!(
            to,
            ["f32" = f32, "bf16" = bf16, "f64" = f64, "u8" = u8, "u32" = u32],
            T => map(|x: S| <T as Number>::from_f64(x.to_f64()))
        )
    }
    with_type!(
        from,
        ["f32" = f32, "bf16" = bf16, "f64" = f64, "u8" = u8, "u32" = u32],
        S => cast_from::<S>(to)?
    )
}

fn on_one(does: &str) -> Option<fn(f64) -> f64> {
    Some(match does {
        "uneg" => |x| -x,
        "uabs" => f64::abs,
        "usqr" => |x| x * x,
        "usqrt" => f64::sqrt,
        "urecip" => f64::recip,
        "uexp" => f64::exp,
        "ulog" => f64::ln,
        "usin" => f64::sin,
        "ucos" => f64::cos,
        "utanh" => f64::tanh,
        "urelu" => |x| x.max(0.0),
        "usilu" => |x| x / (1.0 + (-x).exp()),
        _ => return None,
    })
}

fn on_two(does: &str) -> Option<fn(f64, f64) -> f64> {
    Some(match does {
        "badd" => |x, y| x + y,
        "bsub" => |x, y| x - y,
        "bmul" => |x, y| x * y,
        "bdiv" => |x, y| x / y,
        "bmaximum" => f64::max,
        "bminimum" => f64::min,
        _ => return None,
    })
}

/// `count, rank, list, from, to`: reads `S` wherever it lies.
fn map<S: Copy + 'static, T: 'static>(operation: impl Fn(S) -> T + Send + Sync + 'static) -> Run {
    Box::new(move |args| {
        let from: *const S = args.get(3);
        let value = |[place]: [usize; 1]| operation(Arguments::number(from, place));
        args.fill(&args.walk(2, args.get(0)), 4, value);
    })
}

fn unary<T: Number>(operation: fn(f64) -> f64) -> Run {
    map(move |x: T| T::from_f64(operation(x.to_f64())))
}

/// `count, rank, list, from, to, factor, summand`. A card's compiler makes one instruction of both, which rounds once.
fn affine<T: Number>() -> Run {
    Box::new(|args| {
        let (factor, summand): (T, T) = (args.get(5), args.get(6));
        let (factor, summand) = (factor.to_f64(), summand.to_f64());
        map(move |x: T| T::from_f64(x.to_f64().mul_add(factor, summand)))(args);
    })
}

/// `count, rank, list, left, right, to`.
fn binary<T: Number>(operation: fn(f64, f64) -> f64) -> Run {
    Box::new(move |args| {
        let [left, right]: [*const T; 2] = [args.get(3), args.get(4)];
        args.fill(&args.walk(2, args.get(0)), 5, |[x, y]| {
            let [x, y] =
                [(left, x), (right, y)].map(|(side, place)| Arguments::number(side, place));
            T::from_f64(operation(x.to_f64(), y.to_f64()))
        });
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, run};
    use super::*;

    const CLOSE: *const usize = std::ptr::null();

    fn on_each<S, T: Copy>(name: &str, from: &[S], fill: T) -> Vec<T> {
        let mut to = vec![fill; from.len()];
        let (count, source, out) = (from.len(), from.as_ptr(), to.as_mut_ptr());
        run(name, [at(&count), at(&1usize), at(&CLOSE), at(&source), at(&out)]);
        to
    }

    #[test]
    fn casts_round_to_the_nearest_and_stop_at_the_last() {
        // Half way between two of bf16, and a little more.
        let near = [1.0 + 1.0 / 256.0, 1.0 + 1.0 / 256.0 + 1e-6];
        let rounded = on_each("cast_f32_bf16", &near.map(|x| x as f32), bf16::NAN);
        assert_eq!(rounded, [bf16::from_f32(1.0), bf16::from_f32(1.0 + 1.0 / 128.0)]);
        assert_eq!(on_each("cast_bf16_f32", &rounded, f32::NAN), [1.0, 1.0078125]);
        assert_eq!(on_each("cast_f64_u8", &[-1.5, 2.9, 300.0], 0u8), [0, 2, 255]);
        assert_eq!(on_each("cast_u32_f32", &[16_777_217u32], f32::NAN), [16_777_216.0]);
    }

    #[test]
    fn operations_on_one() {
        let from = [4.0f32, 0.25];
        for (name, expected) in [
            ("uneg_f32", [-4.0, -0.25]),
            ("usqr_f32", [16.0, 0.0625]),
            ("usqrt_f32", [2.0, 0.5]),
            ("urecip_f32", [0.25, 4.0]),
            ("uexp_f32", from.map(f32::exp)),
            ("ulog_f32", from.map(f32::ln)),
        ] {
            let to = on_each(name, &from, f32::NAN);
            for (to, expected) in to.iter().zip(expected) {
                assert!((to - expected).abs() <= 1e-6 * expected.abs(), "{name}: {to}");
            }
        }
    }

    #[test]
    fn a_row_is_added_to_every_row() {
        let left = [1.0f32, 2.0, 3.0, 4.0].map(bf16::from_f32);
        let right = [10.0f32, 20.0].map(bf16::from_f32);
        let mut to = [bf16::NAN; 4];
        let list: [usize; 6] = [2, 2, 2, 1, 0, 1];
        let (list, sides, out) = (list.as_ptr(), [left.as_ptr(), right.as_ptr()], to.as_mut_ptr());
        run(
            "badd_bf16",
            [at(&4usize), at(&2usize), at(&list), at(&sides[0]), at(&sides[1]), at(&out)],
        );
        assert_eq!(to.map(f32::from), [11.0, 22.0, 13.0, 24.0]);
    }

    #[test]
    fn affine_rounds_once() {
        // Its square has one digit more than f32.
        let from = [1.0f32 + 1.0 / 4096.0];
        let mut to = [f32::NAN];
        let (source, out, factor, summand) = (from.as_ptr(), to.as_mut_ptr(), from[0], -1.0f32);
        run(
            "affine_f32",
            [
                at(&1usize),
                at(&1usize),
                at(&CLOSE),
                at(&source),
                at(&out),
                at(&factor),
                at(&summand),
            ],
        );
        assert_eq!(to[0], from[0].mul_add(from[0], -1.0));
        assert_ne!(to[0], from[0] * from[0] - 1.0);
    }
}
