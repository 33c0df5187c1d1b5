//! What the controller hands to the node of a publication.

/// The key in the publish context: the leave to attach, which ControllerPublishVolume has got.
pub const PUBLICATION_KEY: &str = "publicationId";
