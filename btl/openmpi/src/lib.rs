//! `mca_btl_ironband`: the Open MPI component.
