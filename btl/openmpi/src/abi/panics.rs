//! Nothing unwinds into C.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::runtime;

/// Runs what stands behind the C function `entry`. A panic becomes a message and the end of the job, through the
/// runtime; if that returns, the function returns `otherwise`.
///
/// It costs nothing while nobody panics: the compiler inlines both the call and the landing pad's table.
#[inline(always)]
pub(super) fn contained<R>(entry: &str, otherwise: R, body: impl FnOnce() -> R) -> R {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(result) => result,
        Err(payload) => {
            report(entry, payload.as_ref());
            otherwise
        }
    }
}

#[cold]
#[inline(never)]
fn report(entry: &str, payload: &(dyn Any + Send)) {
    let what = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    // A second panic on the way out must not unwind either.
    let reported = catch_unwind(AssertUnwindSafe(|| {
        runtime::fatal(&format!("internal error in {entry}: {what}; please report it, with the lines above"));
    }));
    if reported.is_err() {
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_passes_through() {
        assert_eq!(contained("test", 0, || 7), 7);
    }
}
