//! The macro that makes the types of numbers that are only compared and counted.

/// Makes a number a type of its own, which mixes with no other number: it wraps, unwraps, compares
/// and is shown as the raw number is.
///
/// ```
/// lunar_types::counter_id!(
///     /// A turn of somebody.
///     Turn,
///     u32
/// );
/// assert_eq!(Turn::new(7).to_string(), "7");
/// ```
#[macro_export]
macro_rules! counter_id {
    ($(#[$doc:meta])* $name:ident, $repr:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name($repr);

        impl $name {
            /// Wraps the raw number.
            #[must_use]
            pub const fn new(raw: $repr) -> Self {
                Self(raw)
            }

            /// The raw number.
            #[must_use]
            pub const fn get(self) -> $repr {
                self.0
            }
        }

        impl ::core::fmt::Display for $name {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                ::core::fmt::Display::fmt(&self.0, f)
            }
        }
    };
}
