//! Of what type the elements of a deed are, and how they are combined.

use std::sync::atomic::{AtomicU32, Ordering};

use bytemuck::{Pod, Zeroable};
use ironband_collectives::operator::{
    BitAnd, BitOr, BitXor, Commutative, ComplexF32, InOrder, LocatedF32, LocatedF64, LocatedI64, LocatedU32,
    LogicalAnd, LogicalOr, LogicalXor, Max, MaxLoc, Min, MinLoc, Operator, Product, Sum,
};
use rustix::process::{Signal, getpid, kill_process};

/// After so many more products of matrices this process kills itself; never, if it is 0.
static PRODUCTS_LEFT: AtomicU32 = AtomicU32::new(0);

/// This process kills itself in the product of matrices with this number, counted from 1, from now on: in the middle of an operator.
pub fn die_in_product(number: u32) {
    PRODUCTS_LEFT.store(number, Ordering::Relaxed);
}

/// A 2 x 2 matrix of whole numbers modulo 2^32: its product is associative and does not commute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Matrix([u32; 4]);

impl Matrix {
    /// Their product, this one on the left.
    pub fn times(&self, right: &Self) -> Self {
        let left = PRODUCTS_LEFT.load(Ordering::Relaxed);
        if left > 0 {
            PRODUCTS_LEFT.store(left - 1, Ordering::Relaxed);
            if left == 1 {
                let _ = kill_process(getpid(), Signal::KILL);
            }
        }
        let ([a, b, c, d], [e, f, g, h]) = (self.0, right.0);
        let sum = |x: u32, y: u32, z: u32, w: u32| x.wrapping_mul(y).wrapping_add(z.wrapping_mul(w));
        Self([sum(a, e, b, g), sum(a, f, b, h), sum(c, e, d, g), sum(c, f, d, h)])
    }
}

/// Elements that are made from a number.
pub trait Element: Pod + PartialEq + std::fmt::Debug {
    /// The element of these bits.
    fn of(bits: u64) -> Self;
}

macro_rules! elements {
    ($($element:ty: $bits:ident => $of:expr;)*) => { $(
        impl Element for $element {
            fn of($bits: u64) -> Self {
                $of
            }
        }
    )* };
}

// Floating point numbers are whole and small, so that sums are exact in any order.
elements! {
    u8: bits => bits as Self;
    i8: bits => bits as Self;
    u16: bits => bits as Self;
    i16: bits => bits as Self;
    u32: bits => bits as Self;
    i32: bits => bits as Self;
    u64: bits => bits;
    i64: bits => bits as Self;
    u128: bits => u128::from(bits) << 60 | u128::from(bits);
    i128: bits => i128::from(bits) << 60 | i128::from(bits);
    usize: bits => bits as Self;
    isize: bits => bits as Self;
    f32: bits => (bits % 1000) as Self;
    f64: bits => (bits % 1000) as Self;
    ComplexF32: bits => Self { re: (bits % 1000) as f32, im: (bits >> 20 & 0xff) as f32 };
    LocatedF32: bits => Self { value: (bits % 5) as f32, location: (bits >> 20) as u32 };
    LocatedF64: bits => Self { value: (bits % 5) as f64, location: bits >> 20 };
    LocatedI64: bits => Self { value: (bits % 5) as i64 - 2, location: bits >> 20 };
    LocatedU32: bits => Self { value: (bits % 5) as u32, location: (bits >> 20) as u32 };
    Matrix: bits => Self([bits as u32, (bits >> 7) as u32, (bits >> 13) as u32 | 1, (bits >> 29) as u32]);
}

/// Is told the type and the operator of a kind.
pub(super) trait Visitor {
    type Told;

    fn visit<T: Element, O: Operator<T>>(self, operator: O) -> Self::Told;
}

macro_rules! kinds {
    ($($name:ident: $element:ty, $operator:expr;)*) => {
        /// Of what type elements are, and how they are combined.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Kind {
            $(#[doc = stringify!($operator)] $name,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            pub(super) fn tell<V: Visitor>(self, visitor: V) -> V::Told {
                match self {
                    $(Self::$name => visitor.visit::<$element, _>($operator),)*
                }
            }
        }
    };
}

// Every type, and every operator.
kinds! {
    SumU8: u8, Sum;
    SumI8: i8, Sum;
    ProductU16: u16, Product;
    BitXorI16: i16, BitXor;
    Program: u32, Commutative(|left: &u32, right: &u32| left.wrapping_add(*right).wrapping_add(7));
    SumI32: i32, Sum;
    MinU64: u64, Min;
    ProductI64: i64, Product;
    BitAndU128: u128, BitAnd;
    SumI128: i128, Sum;
    BitOrUsize: usize, BitOr;
    LogicalXorIsize: isize, LogicalXor;
    LogicalAndU8: u8, LogicalAnd;
    LogicalOrI8: i8, LogicalOr;
    SumF32: f32, Sum;
    SumF64: f64, Sum;
    SumComplexF32: ComplexF32, Sum;
    MinF64: f64, Min;
    MaxF32: f32, Max;
    MinLocF32: LocatedF32, MinLoc;
    MaxLocF64: LocatedF64, MaxLoc;
    MaxLocI64: LocatedI64, MaxLoc;
    MinLocU32: LocatedU32, MinLoc;
    Matrices: Matrix, InOrder(Matrix::times);
}
