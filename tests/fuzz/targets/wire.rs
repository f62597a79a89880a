//! Every decoder of the wire formats.
#![cfg_attr(fuzzing, no_main)]

ironband_fuzz::target!(ironband_fuzz::wire);
