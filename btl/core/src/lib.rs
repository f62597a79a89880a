//! Pure protocol: types, limits, configuration, errors and wire formats. No I/O, no clock, no threads.
#![forbid(unsafe_code)]
