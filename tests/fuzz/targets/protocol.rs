//! Two hostile peers and a program drive the protocol of messages.
#![cfg_attr(fuzzing, no_main)]

ironband_fuzz::target!(ironband_fuzz::protocol);
