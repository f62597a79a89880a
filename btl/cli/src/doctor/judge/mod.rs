//! Judges facts. Pure: the same facts give the same checks on any machine.

mod rdma;
mod resources;
mod runtime;
#[cfg(test)]
mod tests;

use super::facts::Facts;
use super::report::Check;

/// Every check, in the order in which a person would go through them.
pub(crate) fn checks(facts: &Facts) -> Vec<Check> {
    vec![
        runtime::open_mpi(facts),
        runtime::component_file(facts),
        runtime::component_series(facts),
        runtime::component_load(facts),
        runtime::btl_selection(facts),
        runtime::pml_selection(facts),
        runtime::root(facts),
        resources::parameters(facts),
        resources::reservation(facts),
        resources::dev_shm(facts),
        resources::cross_memory(facts),
        resources::namespaces(facts),
        rdma::library(facts),
        rdma::devices(facts),
        rdma::permission(facts),
        rdma::memlock(facts),
        rdma::port(facts),
        rdma::gid(facts),
        resources::open_files(facts),
        resources::cores(facts),
    ]
}
