//! Whom a certificate is for: the URI in its subject alternative name.

use std::fmt;
use std::str::FromStr;

use lunar_types::{ClusterId, Name};

use crate::roles::Role;

/// What every such URI begins with; a certificate has exactly one of them.
pub const CERT_SCHEME: &str = "lunar://";

/// `lunar://CLUSTER/ROLE/NAME`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct CertName {
    /// The cluster that the certificate is valid in.
    pub cluster: ClusterId,
    /// What its holder may do.
    pub role: Role,
    /// Who its holder is: of a node or fencer, the name that it joins under.
    pub name: Name,
}

/// A URI that is not of that form.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("'{uri}' is not {CERT_SCHEME}CLUSTER/ROLE/NAME: {problem}")]
pub struct CertNameError {
    uri: String,
    problem: String,
}

impl fmt::Display for CertName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{CERT_SCHEME}{}/{}/{}", self.cluster, self.role, self.name)
    }
}

impl FromStr for CertName {
    type Err = CertNameError;

    fn from_str(uri: &str) -> Result<Self, CertNameError> {
        let wrong = |problem: String| CertNameError { uri: uri.to_owned(), problem };
        let rest = uri.strip_prefix(CERT_SCHEME).ok_or_else(|| wrong("another scheme".into()))?;
        let parts: Vec<&str> = rest.split('/').collect();
        let [cluster, role, name] = parts.as_slice() else {
            return Err(wrong(format!("it has {} parts", parts.len())));
        };
        let parsed = Self {
            cluster: cluster.parse().map_err(|error| wrong(format!("{error}")))?,
            role: role.parse().map_err(|error| wrong(format!("{error}")))?,
            name: name.parse().map_err(|error| wrong(format!("{error}")))?,
        };
        // One holder, one text: what is compared as text somewhere must not have two.
        if parsed.to_string() != uri {
            return Err(wrong(format!("it is written {parsed}")));
        }
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = "11111111-2222-4333-8444-555555555555";

    #[test]
    fn a_name_is_read_as_it_is_written() {
        for role in Role::ALL {
            let uri = format!("lunar://{CLUSTER}/{role}/a.b-1");
            let parsed: CertName = uri.parse().expect("valid");
            assert_eq!((parsed.role, parsed.name.as_str()), (*role, "a.b-1"));
            assert_eq!(parsed.to_string(), uri);
        }
    }

    #[test]
    fn other_uris_are_refused() {
        for uri in [
            "spiffe://x/node/a".to_owned(),
            "lunar://x/node/a".to_owned(),
            format!("lunar://{CLUSTER}/root/a"),
            format!("lunar://{CLUSTER}/node"),
            format!("lunar://{CLUSTER}/node/"),
            format!("lunar://{CLUSTER}/node/a/b"),
            format!("lunar://{CLUSTER}/node/a%41"),
            format!("lunar://{}/node/a", CLUSTER.replace('-', "")),
            format!("LUNAR://{CLUSTER}/node/a"),
        ] {
            let error = uri.parse::<CertName>().expect_err(&uri);
            assert!(error.to_string().contains(&uri), "{error}");
        }
    }
}
