//! Hostile producers and consumers of a shared ring.
#![cfg_attr(fuzzing, no_main)]

ironband_fuzz::target!(ironband_fuzz::ring);
