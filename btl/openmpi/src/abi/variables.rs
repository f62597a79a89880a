//! The MCA parameters: registration with `ompi_info`'s texts, and reading back what the user set.

use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};

use ironband_core::config::{Config, PARAMETERS, Parameter};

use super::series::{
    ComponentTable, MCA_BASE_VAR_SCOPE_READONLY, MCA_BASE_VAR_SOURCE_DEFAULT, MCA_BASE_VAR_TYPE_STRING,
    OPAL_ERR_OUT_OF_RESOURCE, OPAL_INFO_LVL_4, OPAL_INFO_LVL_5, OPAL_SUCCESS,
    mca_base_component_var_register, mca_base_var_get_value, mca_base_var_group_component_register,
    mca_base_var_register_synonym,
};
use crate::parameters::{SYNONYMS, configure, help};

/// One MCA variable. It is static because Open MPI keeps its address until long after the component is closed.
struct Variable {
    /// The value, which Open MPI owns: it frees and replaces it.
    text: AtomicPtr<c_char>,
    /// Open MPI's number for the variable.
    index: AtomicI32,
}

static VARIABLES: [Variable; PARAMETERS.len()] =
    [const { Variable { text: AtomicPtr::new(null_mut()), index: AtomicI32::new(-1) } }; PARAMETERS.len()];

/// Registers every parameter of the table. All are strings for Open MPI, numbers too: its own reading of numbers takes
/// `12x` for 12 and `abc` for 0 without a word, and a value that we cannot see we cannot refuse.
///
/// # Errors
/// Open MPI's error code.
pub(super) fn register(component: *const ComponentTable) -> Result<(), c_int> {
    // SAFETY: the version structure is the component's first field; the text is copied.
    unsafe {
        mca_base_var_group_component_register(
            component.cast(),
            c"Ironband: point-to-point and one-sided communication between processes of one node".as_ptr(),
        );
    }
    for (parameter, variable) in PARAMETERS.iter().zip(&VARIABLES) {
        let index = register_one(component, parameter, variable)?;
        variable.index.store(index, Ordering::Relaxed);
        for (_, synonym) in SYNONYMS.iter().filter(|(name, _)| *name == parameter.name) {
            let synonym = text(synonym)?;
            // SAFETY: all texts are copied.
            let code = unsafe {
                mca_base_var_register_synonym(
                    index,
                    c"opal".as_ptr(),
                    c"btl".as_ptr(),
                    c"ironband".as_ptr(),
                    synonym.as_ptr(),
                    0,
                )
            };
            if code < 0 {
                return Err(code);
            }
        }
    }
    Ok(())
}

fn register_one(
    component: *const ComponentTable,
    parameter: &Parameter,
    variable: &Variable,
) -> Result<c_int, c_int> {
    let name = text(parameter.name)?;
    let help = text(&help(parameter))?;
    let default = text(&parameter.default_text())?;
    // Open MPI copies the default when it registers the variable and owns the storage from then on.
    variable.text.store(default.as_ptr().cast_mut(), Ordering::Relaxed);
    let level = match parameter.name {
        "eager_bytes" | "exclusivity" | "single_copy" => OPAL_INFO_LVL_4,
        _ => OPAL_INFO_LVL_5,
    };
    // SAFETY: texts are copied; the storage is static and has the layout of a `char *`.
    let index = unsafe {
        mca_base_component_var_register(
            component.cast(),
            name.as_ptr(),
            help.as_ptr(),
            MCA_BASE_VAR_TYPE_STRING,
            null_mut(),
            0,
            0,
            level,
            MCA_BASE_VAR_SCOPE_READONLY,
            variable.text.as_ptr().cast(),
        )
    };
    if index < 0 { Err(index) } else { Ok(index) }
}

fn text(text: &str) -> Result<CString, c_int> {
    CString::new(text).map_err(|_| OPAL_ERR_OUT_OF_RESOURCE)
}

/// The configuration in force: MCA parameters over environment variables over defaults.
///
/// # Errors
/// One sentence for the user about the first value that is refused.
pub(super) fn read() -> Result<Config, String> {
    configure(
        |parameter| {
            let place = PARAMETERS.iter().position(|known| known.name == parameter.name)?;
            what_the_user_set(&VARIABLES[place])
        },
        |name| std::env::var(name).ok(),
    )
}

/// `None` for a variable that has its default.
fn what_the_user_set(variable: &Variable) -> Option<String> {
    let mut value: *const *const c_char = null();
    let mut source = MCA_BASE_VAR_SOURCE_DEFAULT;
    // SAFETY: an index that Open MPI gave (it refuses others), and results of the types it writes. It hands out the
    // address of the storage.
    let code = unsafe {
        mca_base_var_get_value(
            variable.index.load(Ordering::Relaxed),
            (&raw mut value).cast(),
            &raw mut source,
            null_mut(),
        )
    };
    if code != OPAL_SUCCESS || source == MCA_BASE_VAR_SOURCE_DEFAULT || value.is_null() {
        return None;
    }
    // SAFETY: the storage of a string variable.
    let start = unsafe { value.read() };
    if start.is_null() {
        return Some(String::new());
    }
    // SAFETY: a string of Open MPI's, terminated and not changed during the call.
    Some(unsafe { CStr::from_ptr(start) }.to_string_lossy().into_owned())
}
