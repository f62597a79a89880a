//! How elements are combined: MPI's predefined operators, and those of the program.

use bytemuck::{Pod, Zeroable};

/// Combines two elements. It has to be associative, or nearly so, as the addition of floating point numbers is.
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
    /// The smaller one; of a number and what is not a number the number. `MPI_MIN`.
    Min:
        (u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize) left right => *left.min(right);
        (f32 f64) left right => left.min(*right);
    /// The greater one; of a number and what is not a number the number. `MPI_MAX`.
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

/// The smaller value with its location; of equal ones the lower location. `MPI_MINLOC`.
#[derive(Debug, Clone, Copy, Default)]
pub struct MinLoc;

/// The greater value with its location; of equal ones the lower location. `MPI_MAXLOC`.
#[derive(Debug, Clone, Copy, Default)]
pub struct MaxLoc;

/// Values with locations as wide as they are, so that there are no gaps.
macro_rules! located {
    ($($name:ident $value:ty, $location:ty;)*) => { $(
        /// A value, and where it is: for [`MinLoc`] and [`MaxLoc`].
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
                let is_left = left.value < right.value || (left.value == right.value && left.location <= right.location);
                if is_left { *left } else { *right }
            }
        }

        impl Operator<$name> for MaxLoc {
            const COMMUTATIVE: bool = true;

            #[inline]
            fn apply(&self, left: &$name, right: &$name) -> $name {
                let is_left = left.value > right.value || (left.value == right.value && left.location <= right.location);
                if is_left { *left } else { *right }
            }
        }
    )* };
}

located! {
    LocatedF32 f32, u32;
    LocatedF64 f64, u64;
    LocatedI32 i32, u32;
    LocatedI64 i64, u64;
    LocatedU32 u32, u32;
    LocatedU64 u64, u64;
}
