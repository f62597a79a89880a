//! How elements are combined: MPI's predefined operators, and those of the program.

use std::cmp::Ordering;

use bytemuck::{Pod, Zeroable};

/// Combines two elements. It has to be associative, or nearly so, as the addition of floating point numbers is. It must not wait for collective operations.
///
/// ```
/// use ironband_collectives::operator::{InOrder, Max, Operator, Sum};
///
/// assert_eq!(Sum.apply(&2, &3), 5);
/// assert_eq!(Max.apply(&2.5, &0.5), 2.5);
/// // One of the program, which takes the left operand.
/// assert_eq!(InOrder(|left: &u8, _right: &u8| *left).apply(&1, &2), 1);
/// ```
pub trait Operator<T>: Clone + 'static {
    /// Whether operands may be exchanged. If not, values are combined in the order of ranks.
    const COMMUTATIVE: bool;

    /// `left op right`. `left` is of lower ranks.
    fn apply(&self, left: &T, right: &T) -> T;
}

/// An operator of the program whose operands may be exchanged.
#[derive(Debug, Clone, Copy)]
pub struct Commutative<F>(pub F);

/// An operator of the program whose operands may not be exchanged.
#[derive(Debug, Clone, Copy)]
pub struct InOrder<F>(pub F);

impl<T, F: Fn(&T, &T) -> T + Clone + 'static> Operator<T> for Commutative<F> {
    const COMMUTATIVE: bool = true;

    fn apply(&self, left: &T, right: &T) -> T {
        self.0(left, right)
    }
}

impl<T, F: Fn(&T, &T) -> T + Clone + 'static> Operator<T> for InOrder<F> {
    const COMMUTATIVE: bool = false;

    fn apply(&self, left: &T, right: &T) -> T {
        self.0(left, right)
    }
}

/// Operators without state, which all commute: the name, what it is, the types, and how two numbers of a type are combined.
macro_rules! predefined {
    ($($(#[$doc:meta])* $name:ident: $(($($number:ty)*) $left:ident $right:ident => $result:expr;)*)*) => { $(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default)]
        pub struct $name;

        $( $(
            impl Operator<$number> for $name {
                const COMMUTATIVE: bool = true;

                #[inline]
                fn apply(&self, $left: &$number, $right: &$number) -> $number {
                    $result
                }
            }
        )* )*
    )* };
}

predefined! {
    /// The sum; whole numbers wrap. `MPI_SUM`.
    Sum:
        (u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize) left right => left.wrapping_add(*right);
        (f32 f64) left right => left + right;
    /// The product; whole numbers wrap. `MPI_PROD`.
    Product:
        (u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize) left right => left.wrapping_mul(*right);
        (f32 f64) left right => left * right;
    /// The smaller one; of a number and what is not a number the number, of 0 and -0 either. `MPI_MIN`.
    Min:
        (u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize) left right => *left.min(right);
        (f32 f64) left right => left.min(*right);
    /// The greater one; of a number and what is not a number the number, of 0 and -0 either. `MPI_MAX`.
    Max:
        (u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize) left right => *left.max(right);
        (f32 f64) left right => left.max(*right);
    /// Bit by bit. `MPI_BAND`.
    BitAnd: (u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize) left right => left & right;
    /// Bit by bit. `MPI_BOR`.
    BitOr: (u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize) left right => left | right;
    /// Bit by bit. `MPI_BXOR`.
    BitXor: (u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize) left right => left ^ right;
    /// 1 if both are not 0, else 0. `MPI_LAND`.
    LogicalAnd: (u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize) left right => (*left != 0 && *right != 0).into();
    /// 1 if one is not 0, else 0. `MPI_LOR`.
    LogicalOr: (u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize) left right => (*left != 0 || *right != 0).into();
    /// 1 if exactly one is not 0, else 0. `MPI_LXOR`.
    LogicalXor: (u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize) left right => ((*left != 0) != (*right != 0)).into();
}

/// Complex numbers as C and Fortran have them.
macro_rules! complex {
    ($($name:ident $part:ty;)*) => { $(
        /// A complex number, of which [`Sum`] and [`Product`] are known: the real part in the first half of its bytes, the imaginary part in the
        /// second.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Pod, Zeroable)]
        #[repr(C)]
        pub struct $name {
            /// The real part.
            pub re: $part,
            /// The imaginary part.
            pub im: $part,
        }

        impl Operator<$name> for Sum {
            const COMMUTATIVE: bool = true;

            #[inline]
            fn apply(&self, left: &$name, right: &$name) -> $name {
                $name { re: left.re + right.re, im: left.im + right.im }
            }
        }

        impl Operator<$name> for Product {
            const COMMUTATIVE: bool = true;

            #[inline]
            fn apply(&self, left: &$name, right: &$name) -> $name {
                $name {
                    re: left.re * right.re - left.im * right.im,
                    im: left.re * right.im + left.im * right.re,
                }
            }
        }
    )* };
}

complex! {
    ComplexF32 f32;
    ComplexF64 f64;
}

/// The smaller value with its location; of equal ones, and of two that are no numbers, the lower location. A number comes before what is not a
/// number. `MPI_MINLOC`.
#[derive(Debug, Clone, Copy, Default)]
pub struct MinLoc;

/// The greater value with its location; else as [`MinLoc`]. `MPI_MAXLOC`.
#[derive(Debug, Clone, Copy, Default)]
pub struct MaxLoc;

/// Whether the left one of two values with locations is taken: the one that comes `before` the other.
#[inline]
fn takes_left<V: PartialOrd, L: PartialOrd>(left: (V, L), right: (V, L), before: Ordering) -> bool {
    // What is not a number is not even equal to itself.
    let is_number = |value: &V| value.partial_cmp(value).is_some();
    match left.0.partial_cmp(&right.0) {
        Some(Ordering::Equal) => left.1 <= right.1,
        Some(order) => order == before,
        None if is_number(&left.0) == is_number(&right.0) => left.1 <= right.1,
        None => is_number(&left.0),
    }
}

/// Values with locations as wide as they are, so that there are no gaps.
macro_rules! located {
    ($($name:ident $value:ty, $location:ty, $mpi:literal;)*) => { $(
        /// A value, and where it is: for [`MinLoc`] and [`MaxLoc`]. The value is in the first half of its bytes, the location in the second
        #[doc = $mpi]
        #[derive(Debug, Clone, Copy, Default, PartialEq, Pod, Zeroable)]
        #[repr(C)]
        pub struct $name {
            /// The value.
            pub value: $value,
            /// Where it is, for example a rank.
            pub location: $location,
        }

        impl Operator<$name> for MinLoc {
            const COMMUTATIVE: bool = true;

            #[inline]
            fn apply(&self, left: &$name, right: &$name) -> $name {
                let (one, other) = ((left.value, left.location), (right.value, right.location));
                if takes_left(one, other, Ordering::Less) { *left } else { *right }
            }
        }

        impl Operator<$name> for MaxLoc {
            const COMMUTATIVE: bool = true;

            #[inline]
            fn apply(&self, left: &$name, right: &$name) -> $name {
                let (one, other) = ((left.value, left.location), (right.value, right.location));
                if takes_left(one, other, Ordering::Greater) { *left } else { *right }
            }
        }
    )* };
}

located! {
    LocatedF32 f32, u32, "(`MPI_FLOAT_INT`).";
    LocatedF64 f64, u64, "(MPI's `MPI_DOUBLE_INT` has a location of 4 bytes, and a gap).";
    LocatedI32 i32, u32, "(`MPI_2INT`).";
    LocatedI64 i64, u64, "(MPI's `MPI_LONG_INT` has a location of 4 bytes, and a gap).";
    LocatedU32 u32, u32, "(MPI has none of it).";
    LocatedU64 u64, u64, "(MPI has none of it).";
}

#[cfg(test)]
#[path = "operator_tests.rs"]
mod tests;
