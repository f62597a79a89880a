//! Elements: made from a number, and compared.

use ironband_collectives::operator::{LocatedF32, LocatedI32};
use ironband_tests::deeds::{Element, Matrix};

use crate::mpi::{Datatype, Op};

/// An element that is made from a number.
pub(crate) trait Datum: Datatype + PartialEq + std::fmt::Debug {
    /// From 1 to the next number of the type; 0 where operators are exact.
    const EPSILON: f64 = 0.0;

    /// The element of these bits.
    fn of(bits: u64) -> Self;

    /// It, or a smaller one if the result of this operator over so many ranks might leave the range of the type: MPI leaves open what comes out then, and Open MPI
    /// saturates bytes. Ours wraps, as its documentation says.
    fn within(self, _op: Op, _size: u32) -> Self {
        self
    }

    /// Its distance from zero, where operators are not exact.
    fn magnitude(&self) -> f64 {
        0.0
    }

    /// How far it is from another one, where operators are not exact.
    fn distance(&self, _other: &Self) -> f64 {
        f64::INFINITY
    }
}

macro_rules! whole {
    ($($number:ty)*) => { $(
        impl Datum for $number {
            /// Small ones too: logical operators want zeros.
            fn of(bits: u64) -> Self {
                if bits % 3 == 0 { (bits >> 8) as Self % 2 } else { bits as Self }
            }

            fn within(self, op: Op, size: u32) -> Self {
                match op {
                    Op::Sum => self / size as Self,
                    Op::Product => {
                        let fits = |base: &Self| base.checked_pow(size).is_some();
                        self % (1..16).filter(fits).max().map_or(1, |base| base + 1)
                    }
                    _ => self,
                }
            }
        }
    )* };
}

whole! { u8 i32 i64 u64 }

macro_rules! floating {
    ($($number:ty)*) => { $(
        impl Datum for $number {
            const EPSILON: f64 = <$number>::EPSILON as f64;

            /// Of either sign and from 2^-8 to 2^8, with all bits in use, so that sums are rounded; never zero.
            fn of(bits: u64) -> Self {
                let fraction = 1.0 + (bits >> 11) as f64 / (1_u64 << 53) as f64;
                let scaled = fraction * f64::powi(2.0, (bits % 16) as i32 - 8);
                (if bits & 16 == 0 { scaled } else { -scaled }) as Self
            }

            fn magnitude(&self) -> f64 {
                f64::from(self.abs())
            }

            fn distance(&self, other: &Self) -> f64 {
                (f64::from(*self) - f64::from(*other)).abs()
            }
        }
    )* };
}

floating! { f32 f64 }

/// Few values, so that many are equal and the location decides.
impl Datum for LocatedF32 {
    fn of(bits: u64) -> Self {
        Self { value: (bits % 5) as f32 - 2.0, location: (bits >> 8) as u32 % 1000 }
    }
}

impl Datum for LocatedI32 {
    fn of(bits: u64) -> Self {
        Self { value: (bits % 5) as i32 - 2, location: (bits >> 8) as u32 % 1000 }
    }
}

impl Datum for Matrix {
    fn of(bits: u64) -> Self {
        <Self as Element>::of(bits)
    }
}
