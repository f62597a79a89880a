//! MPI's collective operations through its C interface: rsmpi lacks some of them, and pairs of a value and a location.
//!
//! All lengths are checked here, so that what is called is safe. MPI's error handler ends the job.

use std::ffi::{c_int, c_void};

use bytemuck::Pod;
use ironband_collectives::operator::{LocatedF32, LocatedI32};
use ironband_tests::deeds::Matrix;
use mpi::ffi;
use mpi::raw::AsRaw as _;
use mpi::topology::SimpleCommunicator;
use mpi::traits::Communicator as _;

/// A communicator, and what MPI has to be told of elements, operators and neighbours.
pub(crate) struct Mpi<'c> {
    communicator: &'c SimpleCommunicator,
    neighbourhood: ffi::MPI_Comm,
    /// How many blocks go out and come in there.
    degrees: (usize, usize),
    matrix: ffi::MPI_Datatype,
    times: ffi::MPI_Op,
}

/// How MPI knows an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Sum,
    Product,
    Min,
    Max,
    BitAnd,
    BitOr,
    BitXor,
    LogicalAnd,
    LogicalOr,
    LogicalXor,
    MinLoc,
    MaxLoc,
    /// The product of matrices, which does not commute: an operator of the program.
    Times,
}

/// An element that MPI knows.
pub(crate) trait Datatype: Pod {
    /// Its type.
    fn datatype(mpi: &Mpi<'_>) -> ffi::MPI_Datatype;
}

macro_rules! predefined {
    ($($element:ty: $handle:ident;)*) => { $(
        impl Datatype for $element {
            fn datatype(_mpi: &Mpi<'_>) -> ffi::MPI_Datatype {
                // SAFETY: a constant of MPI's.
                unsafe { ffi::$handle }
            }
        }
    )* };
}

predefined! {
    u8: RSMPI_UINT8_T;
    i32: RSMPI_INT32_T;
    i64: RSMPI_INT64_T;
    u64: RSMPI_UINT64_T;
    f32: RSMPI_FLOAT;
    f64: RSMPI_DOUBLE;
}

/// rsmpi has no name for these: they are Open MPI's symbols behind `MPI_FLOAT_INT` and `MPI_2INT`. Locations below 2^31 are the same for both.
impl Datatype for LocatedF32 {
    fn datatype(_mpi: &Mpi<'_>) -> ffi::MPI_Datatype {
        ffi::MPI_Datatype((&raw mut ffi::ompi_mpi_float_int).cast())
    }
}

impl Datatype for LocatedI32 {
    fn datatype(_mpi: &Mpi<'_>) -> ffi::MPI_Datatype {
        ffi::MPI_Datatype((&raw mut ffi::ompi_mpi_2int).cast())
    }
}

impl Datatype for Matrix {
    fn datatype(mpi: &Mpi<'_>) -> ffi::MPI_Datatype {
        mpi.matrix
    }
}

/// `MPI_User_function`: the left operands and the right ones, which become the results.
///
/// # Safety
/// Both are vectors of `*len` matrices.
unsafe extern "C" fn times(
    left: *mut c_void,
    right: *mut c_void,
    len: *mut c_int,
    _type: *mut ffi::MPI_Datatype,
) {
    // SAFETY: MPI gives both vectors, of so many matrices.
    unsafe {
        for at in 0..*len as usize {
            let (left, right) = (left.cast::<Matrix>().add(at), right.cast::<Matrix>().add(at));
            right.write_unaligned(left.read_unaligned().times(&right.read_unaligned()));
        }
    }
}

fn check(code: c_int) {
    assert_eq!(code, ffi::MPI_SUCCESS as c_int, "MPI refuses a call");
}

fn count(len: usize) -> c_int {
    c_int::try_from(len).expect("lengths of tests fit a c_int")
}

/// Counts and displacements of blocks, one behind the other, that fill a vector.
fn blocks(counts: &[u64], len: usize) -> (Vec<c_int>, Vec<c_int>) {
    let counts: Vec<c_int> = counts.iter().map(|len| count(*len as usize)).collect();
    let starts = counts.iter().scan(0, |end, len| Some(std::mem::replace(end, *end + len)));
    let starts: Vec<c_int> = starts.collect();
    assert_eq!(counts.iter().sum::<c_int>(), count(len), "the blocks fill the vector");
    (counts, starts)
}

/// Where no elements are. An empty vector of bytes is at address 1, and that is Open MPI's `MPI_IN_PLACE`.
const fn nowhere() -> *mut c_void {
    std::ptr::dangling_mut::<u64>().cast()
}

fn read<T>(vector: &[T]) -> *const c_void {
    if vector.is_empty() { nowhere() } else { vector.as_ptr().cast() }
}

fn write<T>(vector: &mut [T]) -> *mut c_void {
    if vector.is_empty() { nowhere() } else { vector.as_mut_ptr().cast() }
}

impl<'c> Mpi<'c> {
    /// With the ranks to which and from which blocks go in [`Mpi::neighbour_alltoallv`]. All ranks call it.
    pub(crate) fn new(communicator: &'c SimpleCommunicator, to: &[u32], from: &[u32]) -> Self {
        let ranks = |list: &[u32]| -> Vec<c_int> { list.iter().map(|rank| *rank as c_int).collect() };
        let (to, from) = (ranks(to), ranks(from));
        let (mut neighbourhood, mut matrix, mut product);
        // SAFETY: MPI is initialized, since there is a communicator; the lists are as long as is said.
        unsafe {
            (neighbourhood, matrix, product) =
                (ffi::RSMPI_COMM_NULL, ffi::RSMPI_DATATYPE_NULL, ffi::MPI_Op(std::ptr::null_mut()));
            let (raw, none) = (communicator.as_raw(), ffi::RSMPI_UNWEIGHTED());
            let (from_len, to_len) = (count(from.len()), count(to.len()));
            let (from, to, info) = (from.as_ptr(), to.as_ptr(), ffi::RSMPI_INFO_NULL);
            check(ffi::MPI_Dist_graph_create_adjacent(
                raw,
                from_len,
                from,
                none,
                to_len,
                to,
                none,
                info,
                0,
                &raw mut neighbourhood,
            ));
            check(ffi::MPI_Type_contiguous(4, ffi::RSMPI_UINT32_T, &raw mut matrix));
            check(ffi::MPI_Type_commit(&raw mut matrix));
            check(ffi::MPI_Op_create(Some(times), 0, &raw mut product));
        }
        let degrees = (to.len(), from.len());
        Self { communicator, neighbourhood, degrees, matrix, times: product }
    }

    fn raw(&self) -> ffi::MPI_Comm {
        self.communicator.as_raw()
    }

    fn size(&self) -> usize {
        self.communicator.size() as usize
    }

    fn is_root(&self, root: u32) -> bool {
        self.communicator.rank() == root as c_int
    }

    fn handle(&self, op: Op) -> ffi::MPI_Op {
        // SAFETY: constants of MPI's. rsmpi has no name for the two of Open MPI's.
        unsafe {
            match op {
                Op::Sum => ffi::RSMPI_SUM,
                Op::Product => ffi::RSMPI_PROD,
                Op::Min => ffi::RSMPI_MIN,
                Op::Max => ffi::RSMPI_MAX,
                Op::BitAnd => ffi::RSMPI_BAND,
                Op::BitOr => ffi::RSMPI_BOR,
                Op::BitXor => ffi::RSMPI_BXOR,
                Op::LogicalAnd => ffi::RSMPI_LAND,
                Op::LogicalOr => ffi::RSMPI_LOR,
                Op::LogicalXor => ffi::RSMPI_LXOR,
                Op::MinLoc => ffi::MPI_Op((&raw mut ffi::ompi_mpi_op_minloc).cast()),
                Op::MaxLoc => ffi::MPI_Op((&raw mut ffi::ompi_mpi_op_maxloc).cast()),
                Op::Times => self.times,
            }
        }
    }

    pub(crate) fn barrier(&self) {
        // SAFETY: no memory is given.
        check(unsafe { ffi::MPI_Barrier(self.raw()) });
    }

    pub(crate) fn bcast<T: Datatype>(&self, root: u32, data: &mut [T]) {
        let (kind, len) = (T::datatype(self), count(data.len()));
        // SAFETY: the vector is as long as is said; so it is in all calls below, where each length is a vector's, or checked against it.
        check(unsafe { ffi::MPI_Bcast(write(data), len, kind, root as c_int, self.raw()) });
    }

    pub(crate) fn reduce<T: Datatype>(&self, root: u32, input: &[T], output: &mut [T], op: Op) {
        assert!(!self.is_root(root) || output.len() == input.len());
        let (kind, op, len, root) = (T::datatype(self), self.handle(op), count(input.len()), root as c_int);
        // SAFETY: as above; only the root's output is written.
        check(unsafe { ffi::MPI_Reduce(read(input), write(output), len, kind, op, root, self.raw()) });
    }

    pub(crate) fn allreduce<T: Datatype>(&self, input: &[T], output: &mut [T], op: Op) {
        assert_eq!(input.len(), output.len());
        let (kind, op, len) = (T::datatype(self), self.handle(op), count(input.len()));
        // SAFETY: as above.
        check(unsafe { ffi::MPI_Allreduce(read(input), write(output), len, kind, op, self.raw()) });
    }

    pub(crate) fn scan<T: Datatype>(&self, input: &[T], output: &mut [T], op: Op) {
        assert_eq!(input.len(), output.len());
        let (kind, op, len) = (T::datatype(self), self.handle(op), count(input.len()));
        // SAFETY: as above.
        check(unsafe { ffi::MPI_Scan(read(input), write(output), len, kind, op, self.raw()) });
    }

    pub(crate) fn exscan<T: Datatype>(&self, input: &[T], output: &mut [T], op: Op) {
        assert_eq!(input.len(), output.len());
        let (kind, op, len) = (T::datatype(self), self.handle(op), count(input.len()));
        // SAFETY: as above.
        check(unsafe { ffi::MPI_Exscan(read(input), write(output), len, kind, op, self.raw()) });
    }

    pub(crate) fn reduce_scatter_block<T: Datatype>(&self, input: &[T], output: &mut [T], op: Op) {
        assert_eq!(input.len(), output.len() * self.size());
        let (kind, op, len) = (T::datatype(self), self.handle(op), count(output.len()));
        // SAFETY: as above.
        check(unsafe {
            ffi::MPI_Reduce_scatter_block(read(input), write(output), len, kind, op, self.raw())
        });
    }

    pub(crate) fn reduce_scatter<T: Datatype>(&self, input: &[T], output: &mut [T], counts: &[u64], op: Op) {
        let (lens, _) = blocks(counts, input.len());
        assert_eq!(lens.len(), self.size());
        assert_eq!(count(output.len()), lens[self.communicator.rank() as usize]);
        let (kind, op) = (T::datatype(self), self.handle(op));
        // SAFETY: as above.
        check(unsafe {
            ffi::MPI_Reduce_scatter(read(input), write(output), lens.as_ptr(), kind, op, self.raw())
        });
    }

    pub(crate) fn gather<T: Datatype>(&self, root: u32, input: &[T], output: &mut [T]) {
        assert!(!self.is_root(root) || output.len() == input.len() * self.size());
        let (kind, len, root) = (T::datatype(self), count(input.len()), root as c_int);
        // SAFETY: as above; only the root's output is written.
        check(unsafe { ffi::MPI_Gather(read(input), len, kind, write(output), len, kind, root, self.raw()) });
    }

    /// The counts are the root's.
    pub(crate) fn gatherv<T: Datatype>(&self, root: u32, input: &[T], output: &mut [T], counts: &[u64]) {
        let (lens, starts) = blocks(counts, output.len());
        assert!(!self.is_root(root) || lens.len() == self.size());
        let (kind, len, root) = (T::datatype(self), count(input.len()), root as c_int);
        let (lens, starts) = (lens.as_ptr(), starts.as_ptr());
        // SAFETY: as above; only the root's counts are read.
        check(unsafe {
            ffi::MPI_Gatherv(read(input), len, kind, write(output), lens, starts, kind, root, self.raw())
        });
    }

    pub(crate) fn scatter<T: Datatype>(&self, root: u32, input: &[T], output: &mut [T]) {
        assert!(!self.is_root(root) || input.len() == output.len() * self.size());
        let (kind, len, root) = (T::datatype(self), count(output.len()), root as c_int);
        // SAFETY: as above; only the root's input is read.
        check(unsafe {
            ffi::MPI_Scatter(read(input), len, kind, write(output), len, kind, root, self.raw())
        });
    }

    /// The counts are the root's.
    pub(crate) fn scatterv<T: Datatype>(&self, root: u32, input: &[T], counts: &[u64], output: &mut [T]) {
        let (lens, starts) = blocks(counts, input.len());
        assert!(!self.is_root(root) || lens.len() == self.size());
        let (kind, len, root) = (T::datatype(self), count(output.len()), root as c_int);
        let (lens, starts) = (lens.as_ptr(), starts.as_ptr());
        // SAFETY: as above; only the root's counts are read.
        check(unsafe {
            ffi::MPI_Scatterv(read(input), lens, starts, kind, write(output), len, kind, root, self.raw())
        });
    }

    pub(crate) fn allgather<T: Datatype>(&self, input: &[T], output: &mut [T]) {
        assert_eq!(output.len(), input.len() * self.size());
        let (kind, len) = (T::datatype(self), count(input.len()));
        // SAFETY: as above.
        check(unsafe { ffi::MPI_Allgather(read(input), len, kind, write(output), len, kind, self.raw()) });
    }

    pub(crate) fn allgatherv<T: Datatype>(&self, input: &[T], output: &mut [T], counts: &[u64]) {
        let (lens, starts) = blocks(counts, output.len());
        assert_eq!(lens.len(), self.size());
        let (kind, len) = (T::datatype(self), count(input.len()));
        let (lens, starts) = (lens.as_ptr(), starts.as_ptr());
        // SAFETY: as above.
        check(unsafe {
            ffi::MPI_Allgatherv(read(input), len, kind, write(output), lens, starts, kind, self.raw())
        });
    }

    pub(crate) fn alltoall<T: Datatype>(&self, input: &[T], output: &mut [T]) {
        assert!(input.len() == output.len() && input.len().is_multiple_of(self.size()));
        let (kind, len) = (T::datatype(self), count(input.len() / self.size()));
        // SAFETY: as above.
        check(unsafe { ffi::MPI_Alltoall(read(input), len, kind, write(output), len, kind, self.raw()) });
    }

    pub(crate) fn alltoallv<T: Datatype>(
        &self,
        (input, sent): (&[T], &[u64]),
        (output, got): (&mut [T], &[u64]),
    ) {
        assert!(sent.len() == self.size() && got.len() == self.size());
        self.exchange((input, sent), (output, got), self.raw(), ffi::MPI_Alltoallv);
    }

    /// With the neighbours of [`Mpi::new`].
    pub(crate) fn neighbour_alltoallv<T: Datatype>(
        &self,
        (input, sent): (&[T], &[u64]),
        (output, got): (&mut [T], &[u64]),
    ) {
        assert_eq!((sent.len(), got.len()), self.degrees);
        self.exchange((input, sent), (output, got), self.neighbourhood, ffi::MPI_Neighbor_alltoallv);
    }

    fn exchange<T: Datatype>(
        &self,
        (input, sent): (&[T], &[u64]),
        (output, got): (&mut [T], &[u64]),
        communicator: ffi::MPI_Comm,
        call: Exchange,
    ) {
        let (kind, (sent, to), (got, from)) =
            (T::datatype(self), blocks(sent, input.len()), blocks(got, output.len()));
        let (sent, to, got, from) = (sent.as_ptr(), to.as_ptr(), got.as_ptr(), from.as_ptr());
        // SAFETY: as above; there is a count for each rank or neighbour.
        check(unsafe { call(read(input), sent, to, kind, write(output), got, from, kind, communicator) });
    }
}

/// `MPI_Alltoallv` or `MPI_Neighbor_alltoallv`.
type Exchange = unsafe extern "C" fn(
    *const c_void,
    *const c_int,
    *const c_int,
    ffi::MPI_Datatype,
    *mut c_void,
    *const c_int,
    *const c_int,
    ffi::MPI_Datatype,
    ffi::MPI_Comm,
) -> c_int;

impl Drop for Mpi<'_> {
    fn drop(&mut self) {
        // SAFETY: they were made in `new`, and MPI is not finalized before its communicators are gone.
        unsafe {
            check(ffi::MPI_Op_free(&raw mut self.times));
            check(ffi::MPI_Type_free(&raw mut self.matrix));
            check(ffi::MPI_Comm_free(&raw mut self.neighbourhood));
        }
    }
}
