//! The verbs-shaped `Fabric` trait and its fabrics.
