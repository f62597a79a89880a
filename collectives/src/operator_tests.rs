//! Every operator on every type, against what its name says.

use super::*;

/// Values around those where something changes.
macro_rules! whole_numbers_are_combined {
    ($($number:ident)*) => { $(
        #[test]
        fn $number() {
            type N = $number;
            let values = [N::MIN, N::MIN + 1, 0, 1, 2, 7, N::MAX / 2, N::MAX - 1, N::MAX];
            for (left, right) in values.iter().flat_map(|left| values.map(|right| (*left, right))) {
                let both = || (left, right);
                let is = |truth: bool| N::from(truth);
                assert_eq!(Sum.apply(&left, &right), left.wrapping_add(right), "{:?}", both());
                assert_eq!(Product.apply(&left, &right), left.wrapping_mul(right), "{:?}", both());
                assert_eq!(Min.apply(&left, &right), if left < right { left } else { right }, "{:?}", both());
                assert_eq!(Max.apply(&left, &right), if left > right { left } else { right }, "{:?}", both());
                for bit in 0..N::BITS {
                    let at = |number: N| number >> bit & 1;
                    let (one, other) = (at(left), at(right));
                    assert_eq!(at(BitAnd.apply(&left, &right)), N::from(one == 1 && other == 1));
                    assert_eq!(at(BitOr.apply(&left, &right)), N::from(one == 1 || other == 1));
                    assert_eq!(at(BitXor.apply(&left, &right)), N::from(one != other));
                }
                assert_eq!(LogicalAnd.apply(&left, &right), is(left != 0 && right != 0), "{:?}", both());
                assert_eq!(LogicalOr.apply(&left, &right), is(left != 0 || right != 0), "{:?}", both());
                assert_eq!(LogicalXor.apply(&left, &right), is((left == 0) != (right == 0)), "{:?}", both());
            }
            // What comes behind the highest is the lowest.
            assert_eq!(Sum.apply(&N::MAX, &1), N::MIN);
        }
    )* };
}

whole_numbers_are_combined! { u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize }

/// Pairs of these and the same ones the other way round.
fn pairs<V: Copy>(values: &[V]) -> impl Iterator<Item = (V, V)> + '_ {
    values.iter().flat_map(|left| values.iter().map(|right| (*left, *right)))
}

macro_rules! floating_point_numbers_are_combined {
    ($($name:ident $number:ty;)*) => { $(
        #[test]
        fn $name() {
            type N = $number;
            let numbers = [N::NEG_INFINITY, N::MIN, -1.5, 0.0, N::MIN_POSITIVE, 1.0, 3.25, N::MAX, N::INFINITY];
            for (left, right) in pairs(&numbers) {
                assert_eq!(Sum.apply(&left, &right).to_bits(), (left + right).to_bits());
                assert_eq!(Product.apply(&left, &right).to_bits(), (left * right).to_bits());
                assert_eq!(Min.apply(&left, &right), if left < right { left } else { right });
                assert_eq!(Max.apply(&left, &right), if left > right { left } else { right });
            }
            for number in numbers {
                for (left, right) in [(number, N::NAN), (N::NAN, number)] {
                    assert_eq!(Min.apply(&left, &right), number);
                    assert_eq!(Max.apply(&left, &right), number);
                    assert!(Sum.apply(&left, &right).is_nan() && Product.apply(&left, &right).is_nan());
                }
            }
            assert!(Min.apply(&N::NAN, &N::NAN).is_nan() && Max.apply(&N::NAN, &N::NAN).is_nan());
            assert!(Min.apply(&0.0, &-0.0) == 0.0 && Max.apply(&-0.0, &0.0) == 0.0);
        }
    )* };
}

floating_point_numbers_are_combined! {
    singles f32;
    doubles f64;
}

/// What is chosen does not depend on the side, or on what is combined first.
fn check_choice<T: Copy + PartialEq + std::fmt::Debug>(
    operator: impl Operator<T>,
    values: &[T],
    is_same: impl Fn(T, T) -> bool,
) {
    for (a, b) in pairs(values) {
        let chosen = operator.apply(&a, &b);
        assert!(is_same(chosen, a) || is_same(chosen, b), "{chosen:?} of {a:?} and {b:?}");
        assert!(is_same(chosen, operator.apply(&b, &a)), "{a:?} and {b:?} the other way round");
        for c in values {
            let first = operator.apply(&operator.apply(&a, &b), c);
            let last = operator.apply(&a, &operator.apply(&b, c));
            assert!(is_same(first, last), "{a:?}, {b:?} and {c:?}: {first:?} or {last:?}");
        }
    }
}

macro_rules! located_values_are_chosen {
    ($($test:ident $name:ident: $($value:expr),*;)*) => { $(
        #[test]
        fn $test() {
            let values = [$($value),*];
            let places = values.iter().flat_map(|value| [3, 0, 7].map(|location| $name { value: *value, location }));
            let places: Vec<_> = places.collect();
            // What is not a number is the same as itself here.
            let is_same = |one: $name, other: $name| {
                let (is, other_is) = (bytemuck::bytes_of(&one), bytemuck::bytes_of(&other));
                is == other_is
            };
            check_choice(MinLoc, &places, is_same);
            check_choice(MaxLoc, &places, is_same);
            for (one, other) in pairs(&places) {
                let (least, most) = (MinLoc.apply(&one, &other), MaxLoc.apply(&one, &other));
                if one.value < other.value {
                    assert!(is_same(least, one) && is_same(most, other), "{one:?}, {other:?}");
                } else if one.value == other.value {
                    assert!(least.location == one.location.min(other.location) && is_same(least, most));
                }
            }
            assert_eq!(size_of::<$name>(), 2 * size_of_val(&values[0]), "there are gaps");
            assert_eq!(std::mem::offset_of!($name, location), size_of_val(&values[0]));
        }
    )* };
}

located_values_are_chosen! {
    located_singles LocatedF32: f32::NAN, -1.0, 2.5, f32::INFINITY;
    located_doubles LocatedF64: f64::NAN, -1.0, 2.5, f64::INFINITY;
    located_i32 LocatedI32: i32::MIN, -1, 5;
    located_i64 LocatedI64: i64::MIN, -1, 5;
    located_u32 LocatedU32: 0, 1, u32::MAX;
    located_u64 LocatedU64: 0, 1, u64::MAX;
}

#[test]
fn a_number_comes_before_what_is_none() {
    let (none, number) =
        (LocatedF64 { value: f64::NAN, location: 0 }, LocatedF64 { value: 1.0, location: 5 });
    assert_eq!(MinLoc.apply(&none, &number), number);
    assert_eq!(MaxLoc.apply(&number, &none), number);
    let other = LocatedF64 { location: 2, ..none };
    assert_eq!(MinLoc.apply(&other, &none).location, 0);
}

#[test]
fn complex_numbers() {
    let (one, other) = (ComplexF64 { re: 1.0, im: 2.0 }, ComplexF64 { re: -3.0, im: 0.5 });
    assert_eq!(Sum.apply(&one, &other), ComplexF64 { re: -2.0, im: 2.5 });
    assert_eq!(Product.apply(&one, &other), ComplexF64 { re: -4.0, im: -5.5 });
    assert_eq!(Product.apply(&one, &other), Product.apply(&other, &one));
    assert_eq!(bytemuck::bytes_of(&ComplexF32 { re: 1.0, im: 2.0 }), bytemuck::bytes_of(&[1.0_f32, 2.0]));
}

/// One of the program that has something of its own.
#[derive(Debug, Clone)]
struct Modulo(u64);

impl Operator<u64> for Modulo {
    const COMMUTATIVE: bool = true;

    fn apply(&self, left: &u64, right: &u64) -> u64 {
        (left + right) % self.0
    }
}

#[test]
fn operators_of_the_program() {
    assert_eq!(Modulo(10).apply(&7, &8), 5);
    let factor = 3;
    let operator = InOrder(move |left: &i32, right: &i32| left * factor - right);
    assert_eq!(operator.apply(&2, &1), 5);
    fn commutes<T, O: Operator<T>>(_: &O) -> bool {
        O::COMMUTATIVE
    }
    assert!(commutes(&Modulo(2)) && !commutes::<i32, _>(&operator));
    assert!(commutes::<i32, _>(&Commutative(|left: &i32, right: &i32| left + right)));
}
