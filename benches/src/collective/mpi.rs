//! MPI's collective operations, each in three forms with one list of arguments: `MPI_Allreduce`, `MPI_Iallreduce`, `MPI_Allreduce_init`.
//!
//! The persistent forms came with MPI 4, and rsmpi does not know them. Open MPI 4.1 has them with another prefix, in an extension. So they are
//! looked up by name in the library that the process runs with.

use std::{
    ffi::{CString, c_int, c_void},
    marker::PhantomData,
};

use libloading::os::unix::Library;
use mpi::ffi;

use super::{
    case::{Case, Element, neighbours, parts},
    operation::{Form, Measured, Operation},
    rounds::Operate,
};
use crate::{
    error::BenchError,
    pattern::Mismatch,
    point_to_point::{abort, check as check_code, without_unwinding},
    session::Session,
};

/// The address of the function that makes a persistent operation.
type Address = *mut c_void;

/// The name of an operation in MPI, without `MPI_`.
fn name_in_mpi(operation: Operation) -> String {
    let name = operation.name();
    name[..1].to_uppercase() + &name[1..]
}

/// The function of MPI 4, or of Open MPI 4.1.
fn find_init(operation: &str) -> Option<Address> {
    let process = Library::this();
    ["MPI_", "MPIX_"].into_iter().find_map(|prefix| {
        let name = CString::new(format!("{prefix}{operation}_init")).ok()?;
        // SAFETY: only the address is taken here; who calls it gives it its type (`in_form`).
        unsafe { process.get::<Address>(name.as_bytes_with_nul()) }.ok().map(|symbol| *symbol)
    })
}

/// Whether this MPI can do what is asked for.
///
/// # Errors
/// When the operation is persistent and the library is without it.
pub(super) fn check(session: &Session, measured: Measured) -> Result<(), BenchError> {
    let operation = name_in_mpi(measured.operation);
    if measured.form != Form::Persistent || find_init(&operation).is_some() {
        return Ok(());
    }
    Err(BenchError::Lacking { call: format!("{operation}_init"), library: session.library().to_owned() })
}

/// Waits for all ranks, and calls `progress` meanwhile. Where another library has carried messages, a rank that waits in MPI alone could keep
/// others waiting in that library: what has ended here may need this rank to end there. When this returns all have ended all that they called before.
pub(super) fn meet(_: &Session, mut progress: impl FnMut()) {
    // SAFETY: MPI is initialised while the session lives, and then these constants are set.
    let (world, mut request) = unsafe { (ffi::RSMPI_COMM_WORLD, ffi::RSMPI_REQUEST_NULL) };
    // SAFETY: as above; the request stays here until it has ended, because a panic of `progress` ends the process.
    without_unwinding(|| unsafe {
        check_code(ffi::MPI_Ibarrier(world, &mut request), "MPI_Ibarrier");
        let mut has_ended = 0;
        while has_ended == 0 {
            progress();
            check_code(ffi::MPI_Test(&mut request, &mut has_ended, ffi::RSMPI_STATUS_IGNORE), "MPI_Test");
        }
    });
}

/// An operation of MPI's, ready to be measured.
///
/// # Errors
/// As [`check`].
pub(super) fn operation<'s>(
    session: &'s Session,
    case: Case,
    form: Form,
) -> Result<Box<dyn Operate + 's>, BenchError> {
    // SAFETY: MPI is initialised while the session lives, and then these constants are set.
    let (float, byte) = unsafe { (ffi::RSMPI_FLOAT, ffi::RSMPI_UINT8_T) };
    if case.operation.combines() {
        Ok(Box::new(Own::<f32>::new(session, case, form, float)?))
    } else {
        Ok(Box::new(Own::<u8>::new(session, case, form, byte)?))
    }
}

/// Which of the three functions is called.
#[derive(Clone, Copy)]
enum Function {
    Blocking,
    Immediate,
    /// At this address.
    Init(Address),
}

struct Own<'s, T> {
    case: Case,
    input: Vec<T>,
    output: Vec<T>,
    element: ffi::MPI_Datatype,
    sum: ffi::MPI_Op,
    world: ffi::MPI_Comm,
    /// Of the ring, where neighbours are asked for.
    ring: Option<ffi::MPI_Comm>,
    /// Elements and places of all blocks, for the operations that name them.
    counts: Vec<c_int>,
    starts: Vec<c_int>,
    request: ffi::MPI_Request,
    is_persistent: bool,
    is_under_way: bool,
    session: PhantomData<&'s Session>,
}

/// Calls one of the three functions of an operation, which have the same arguments but for those behind them. Evaluates to the code.
macro_rules! in_form {
    ($self:ident, $function:ident, $blocking:ident, $immediate:ident,
     ($($argument:expr => $type:ty),* $(,)?)) => {
        // SAFETY: buffers, counts and handles are this value's own, which stays where it is and keeps them until the request has ended (`Drop`);
        // they have the lengths that `Case` takes from MPI's definition of the operation. The function at the address has this type by MPI 4.0,
        // section 6.13, and by Open MPI's mpiext_pcollreq_c.h, as it was looked up by the name of this operation.
        unsafe {
            match $function {
                Function::Blocking => ffi::$blocking($($argument),*),
                Function::Immediate => ffi::$immediate($($argument,)* &mut $self.request),
                Function::Init(address) => {
                    type Init = unsafe extern "C" fn($($type,)* ffi::MPI_Info, *mut ffi::MPI_Request) -> c_int;
                    let init = std::mem::transmute::<Address, Init>(address);
                    init($($argument,)* ffi::RSMPI_INFO_NULL, &mut $self.request)
                }
            }
        }
    };
}

type In = *const c_void;
type Out = *mut c_void;
type Ints = *const c_int;
type Type = ffi::MPI_Datatype;
type Comm = ffi::MPI_Comm;

impl<'s, T: Element> Own<'s, T> {
    fn new(_: &'s Session, case: Case, form: Form, element: Type) -> Result<Self, BenchError> {
        let (mut input, mut output) = (vec![T::ZERO; case.input_len()], vec![T::ZERO; case.output_len()]);
        case.fill(0, &mut input, &mut output);
        let of_ring = neighbours(case.rank, case.ranks);
        let is_ring = matches!(case.operation, Operation::NeighborAlltoall | Operation::NeighborAlltoallv);
        let counts = match case.operation {
            Operation::ReduceScatter => parts(case.len, case.ranks),
            _ if is_ring => vec![case.len; of_ring.len()],
            _ => vec![case.len; case.ranks],
        };
        // -M bounds all buffers by what a C int counts.
        let counts: Vec<c_int> = counts.into_iter().map(|count| count as c_int).collect();
        let starts = (0..counts.len()).map(|at| counts[..at].iter().sum()).collect();
        // SAFETY: MPI is initialised while the session lives, and then these constants are set.
        let (world, sum, request) =
            unsafe { (ffi::RSMPI_COMM_WORLD, ffi::RSMPI_SUM, ffi::RSMPI_REQUEST_NULL) };
        let mut own = Self {
            ring: is_ring.then(|| ring(world, &of_ring)),
            is_persistent: form == Form::Persistent,
            is_under_way: false,
            session: PhantomData,
            case,
            input,
            output,
            element,
            sum,
            world,
            counts,
            starts,
            request,
        };
        if own.is_persistent {
            let name = name_in_mpi(own.case.operation);
            let address = find_init(&name).unwrap_or_else(|| unreachable!("`check` has found {name}"));
            own.invoke(Function::Init(address));
        }
        Ok(own)
    }

    fn invoke(&mut self, function: Function) {
        let code =
            if self.case.operation.combines() { self.combine(function) } else { self.move_bytes(function) };
        check_code(code, self.case.operation.name());
    }

    fn combine(&mut self, function: Function) -> c_int {
        let (input, output): (In, Out) = (self.input.as_ptr().cast(), self.output.as_mut_ptr().cast());
        let Self { element, sum, world, .. } = *self;
        let (len, root, counts) = (self.case.len as c_int, self.case.root as c_int, self.counts.as_ptr());
        macro_rules! of_vectors {
            ($blocking:ident, $immediate:ident) => {
                in_form!(self, function, $blocking, $immediate,
                    (input => In, output => Out, len => c_int, element => Type, sum => ffi::MPI_Op,
                     world => Comm))
            };
        }
        match self.case.operation {
            Operation::Reduce => in_form!(self, function, MPI_Reduce, MPI_Ireduce,
                (input => In, output => Out, len => c_int, element => Type, sum => ffi::MPI_Op,
                 root => c_int, world => Comm)),
            Operation::ReduceScatter => in_form!(self, function, MPI_Reduce_scatter, MPI_Ireduce_scatter,
                (input => In, output => Out, counts => Ints, element => Type, sum => ffi::MPI_Op,
                 world => Comm)),
            Operation::ReduceScatterBlock => of_vectors!(MPI_Reduce_scatter_block, MPI_Ireduce_scatter_block),
            Operation::Scan => of_vectors!(MPI_Scan, MPI_Iscan),
            Operation::Exscan => of_vectors!(MPI_Exscan, MPI_Iexscan),
            _ => of_vectors!(MPI_Allreduce, MPI_Iallreduce),
        }
    }

    fn move_bytes(&mut self, function: Function) -> c_int {
        let (input, output): (In, Out) = (self.input.as_ptr().cast(), self.output.as_mut_ptr().cast());
        let Self { element, world, .. } = *self;
        let ring = self.ring.unwrap_or(world);
        let (len, root) = (self.case.len as c_int, self.case.root as c_int);
        let (counts, starts) = (self.counts.as_ptr(), self.starts.as_ptr());
        macro_rules! of_all {
            ($comm:expr, $blocking:ident, $immediate:ident) => {
                in_form!(self, function, $blocking, $immediate,
                    (input => In, len => c_int, element => Type, output => Out, len => c_int,
                     element => Type, $comm => Comm))
            };
        }
        macro_rules! of_root {
            ($blocking:ident, $immediate:ident) => {
                in_form!(self, function, $blocking, $immediate,
                    (input => In, len => c_int, element => Type, output => Out, len => c_int, element => Type,
                     root => c_int, world => Comm))
            };
        }
        macro_rules! of_counts {
            ($comm:expr, $blocking:ident, $immediate:ident) => {
                in_form!(self, function, $blocking, $immediate,
                    (input => In, counts => Ints, starts => Ints, element => Type,
                     output => Out, counts => Ints, starts => Ints, element => Type, $comm => Comm))
            };
        }
        match self.case.operation {
            Operation::Barrier => in_form!(self, function, MPI_Barrier, MPI_Ibarrier, (world => Comm)),
            Operation::Bcast => in_form!(self, function, MPI_Bcast, MPI_Ibcast,
                (output => Out, len => c_int, element => Type, root => c_int, world => Comm)),
            Operation::Gather => of_root!(MPI_Gather, MPI_Igather),
            Operation::Gatherv => in_form!(self, function, MPI_Gatherv, MPI_Igatherv,
                (input => In, len => c_int, element => Type, output => Out, counts => Ints,
                 starts => Ints, element => Type, root => c_int, world => Comm)),
            Operation::Scatter => of_root!(MPI_Scatter, MPI_Iscatter),
            Operation::Scatterv => in_form!(self, function, MPI_Scatterv, MPI_Iscatterv,
                (input => In, counts => Ints, starts => Ints, element => Type, output => Out,
                 len => c_int, element => Type, root => c_int, world => Comm)),
            Operation::Allgather => of_all!(world, MPI_Allgather, MPI_Iallgather),
            Operation::Allgatherv => in_form!(self, function, MPI_Allgatherv, MPI_Iallgatherv,
                (input => In, len => c_int, element => Type, output => Out, counts => Ints,
                 starts => Ints, element => Type, world => Comm)),
            Operation::Alltoallv => of_counts!(world, MPI_Alltoallv, MPI_Ialltoallv),
            Operation::NeighborAlltoall => of_all!(ring, MPI_Neighbor_alltoall, MPI_Ineighbor_alltoall),
            Operation::NeighborAlltoallv => of_counts!(ring, MPI_Neighbor_alltoallv, MPI_Ineighbor_alltoallv),
            _ => of_all!(world, MPI_Alltoall, MPI_Ialltoall),
        }
    }
}

/// A communicator in which each rank has these neighbours, both ways.
fn ring(world: Comm, neighbours: &[usize]) -> Comm {
    let ranks: Vec<c_int> = neighbours.iter().map(|rank| *rank as c_int).collect();
    let degree = ranks.len() as c_int;
    let mut ring = world;
    // SAFETY: MPI is initialised, as `Own::new` knows; both lists have `degree` ranks and are read by this call alone; no weights are given.
    let code = unsafe {
        let unweighted = ffi::RSMPI_UNWEIGHTED();
        ffi::MPI_Dist_graph_create_adjacent(
            world,
            degree,
            ranks.as_ptr(),
            unweighted,
            degree,
            ranks.as_ptr(),
            unweighted,
            ffi::RSMPI_INFO_NULL,
            0,
            &mut ring,
        )
    };
    check_code(code, "MPI_Dist_graph_create_adjacent");
    ring
}

impl<T: Element> Operate for Own<'_, T> {
    fn prepare(&mut self, round: u64) {
        self.case.fill(round, &mut self.input, &mut self.output);
    }

    fn mismatch(&self, round: u64) -> Option<Mismatch> {
        self.case.mismatch(round, &self.output)
    }

    fn call(&mut self) {
        self.invoke(Function::Blocking);
    }

    fn begin(&mut self) {
        self.is_under_way = true;
        if self.is_persistent {
            // SAFETY: the request was made by `new` and is not under way: a round waits for it.
            check_code(unsafe { ffi::MPI_Start(&mut self.request) }, "MPI_Start");
        } else {
            self.invoke(Function::Immediate);
        }
    }

    fn test(&mut self) {
        let mut has_ended = 0;
        // SAFETY: the request is this value's; when it has ended MPI makes it one that has, which may be waited for. The status is ignored.
        let code = unsafe { ffi::MPI_Test(&mut self.request, &mut has_ended, ffi::RSMPI_STATUS_IGNORE) };
        check_code(code, "MPI_Test");
    }

    fn wait(&mut self) {
        // SAFETY: as in `test`.
        check_code(unsafe { ffi::MPI_Wait(&mut self.request, ffi::RSMPI_STATUS_IGNORE) }, "MPI_Wait");
        self.is_under_way = false;
    }

    fn barrier(&mut self) {
        // SAFETY: MPI is initialised, as `new` knows.
        check_code(unsafe { ffi::MPI_Barrier(self.world) }, "MPI_Barrier");
    }
}

impl<T> Drop for Own<'_, T> {
    fn drop(&mut self) {
        if self.is_under_way {
            // A panic in the middle of a round: MPI has the buffers, which are freed behind this.
            abort();
        }
        if self.is_persistent {
            // SAFETY: the request was made by `new` and has ended.
            check_code(unsafe { ffi::MPI_Request_free(&mut self.request) }, "MPI_Request_free");
        }
        if let Some(mut ring) = self.ring {
            // SAFETY: `ring` made it, nobody else has it, and nothing goes on in it.
            check_code(unsafe { ffi::MPI_Comm_free(&mut ring) }, "MPI_Comm_free");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_mpis() {
        assert_eq!(name_in_mpi(Operation::ReduceScatterBlock), "Reduce_scatter_block");
        assert_eq!(name_in_mpi(Operation::NeighborAlltoallv), "Neighbor_alltoallv");
    }

    #[test]
    fn what_a_library_lacks_is_not_found() {
        assert_eq!(find_init("Alreduce"), None);
        assert_eq!(find_init(""), None, "MPI has no MPI__init");
    }
}
