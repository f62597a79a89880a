//! What launchers and processes say in PMI, and lists in variables.
#![cfg_attr(fuzzing, no_main)]

ironband_fuzz::target!(ironband_fuzz::pmi_line);
