//! Conversions between the messages of `v1` and the values of `domain`.
//!
//! From the wire every field is checked, and an error names the field; to the wire nothing fails.
//! Each message converts with `TryFrom` in one direction and `From` in the other.

mod admin;
mod certificates;
mod contents;
mod diff;
mod fencing;
mod groups;
mod map;
mod nodes;
mod peers;
mod pools;
mod publications;
mod sets;
mod snapshots;
#[cfg(test)]
mod tests;
mod usage;
mod volumes;
mod watermarks;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use lunar_types::{
    ExtentAddress, ExtentRun, ExtentSize, Incarnation, LogicalBlockSize, LunIndex, Name, NodeId,
    NodeIncarnation, NodeSession, PhysicalExtent, PoolId, SessionNumber, SnapshotGroupId,
    SnapshotId, VolumeId,
};

use crate::domain::{PageRequest, PageToken, Selector, WAIT_MAX};
use crate::error::FieldError;
use crate::v1;

pub use admin::backup_number;
pub use contents::content_state;
pub use sets::known_set_state;

/// What a conversion from the wire gives.
type Checked<T> = Result<T, FieldError>;

/// A text field parsed as an id or a name.
///
/// # Errors
/// When it is empty or malformed.
pub fn parsed<T>(field: &str, text: &str) -> Result<T, FieldError>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    if text.is_empty() {
        return Err(FieldError::missing(field));
    }
    text.parse().map_err(|error| FieldError::new(field, error))
}

/// A text field parsed as an id or a name; empty is none.
///
/// # Errors
/// When it is malformed.
pub fn given<T>(field: &str, text: &str) -> Result<Option<T>, FieldError>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    if text.is_empty() { Ok(None) } else { parsed(field, text).map(Some) }
}

/// An id or a name as a text field; none is empty.
pub fn told<T: fmt::Display>(value: Option<T>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// A message field that must be there.
fn required<T>(field: &str, value: Option<T>) -> Checked<T> {
    value.ok_or_else(|| FieldError::missing(field))
}

/// A nested message that must be there, converted.
///
/// # Errors
/// When it is missing or malformed.
pub fn nested<W, T: TryFrom<W, Error = FieldError>>(
    field: &str,
    value: Option<W>,
) -> Result<T, FieldError> {
    required(field, value)?.try_into().map_err(|error: FieldError| error.within(field))
}

/// A list of messages, converted; an error has the index of its item.
///
/// # Errors
/// When an item is malformed.
pub fn list<W, T: TryFrom<W, Error = FieldError>>(
    field: &str,
    items: Vec<W>,
) -> Result<Vec<T>, FieldError> {
    let convert = |(index, item): (usize, W)| {
        T::try_from(item).map_err(|error| error.within(&format!("{field}[{index}]")))
    };
    items.into_iter().enumerate().map(convert).collect()
}

/// A list of values on its way to the wire.
pub fn to_list<T, W: From<T>>(items: Vec<T>) -> Vec<W> {
    items.into_iter().map(W::from).collect()
}

/// A logical block size that must be given.
fn logical_block_size(field: &str, bytes: u32) -> Checked<LogicalBlockSize> {
    LogicalBlockSize::from_bytes(u64::from(bytes)).map_err(|error| FieldError::new(field, error))
}

/// An extent size that must be given.
fn extent_size(field: &str, bytes: u64) -> Checked<ExtentSize> {
    ExtentSize::from_bytes(bytes).map_err(|error| FieldError::new(field, error))
}

fn lun_index(field: &str, raw: u32) -> Checked<LunIndex> {
    u16::try_from(raw).ok().and_then(LunIndex::try_new).ok_or_else(|| {
        FieldError::new(field, format_args!("{raw} is not below {}", LunIndex::LIMIT))
    })
}

fn physical_extent(field: &str, raw: u64) -> Checked<PhysicalExtent> {
    PhysicalExtent::try_new(raw)
        .ok_or_else(|| FieldError::new(field, format_args!("{raw} is not below 2^36")))
}

/// An id as its selector's text; nodes have numbers, everything else UUIDs.
pub trait SelectorId: Sized + fmt::Display {
    /// The id of this text, or what is wrong with it.
    ///
    /// # Errors
    /// When the text is no such id.
    fn from_selector_text(text: &str) -> Result<Self, String>;
}

macro_rules! uuid_selector {
    ($($id:ty),+) => {
        $(impl SelectorId for $id {
            fn from_selector_text(text: &str) -> Result<Self, String> {
                text.parse().map_err(|error: lunar_types::IdParseError| error.to_string())
            }
        })+
    };
}
uuid_selector!(PoolId, VolumeId, SnapshotId, SnapshotGroupId);

impl SelectorId for NodeId {
    fn from_selector_text(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(raw) if raw > 0 => Ok(Self::new(raw)),
            _ => Err(format!("'{text}' is not a node id: expected 1 to 65535")),
        }
    }
}

/// A selector that must be there.
///
/// # Errors
/// When it is missing or malformed.
pub fn selector<I: SelectorId>(
    field: &str,
    wire: Option<v1::Selector>,
) -> Result<Selector<I>, FieldError> {
    use v1::selector::By;
    match required(field, required(field, wire)?.by)? {
        By::Id(text) => I::from_selector_text(&text)
            .map(Selector::Id)
            .map_err(|problem| FieldError::new(&format!("{field}.id"), problem)),
        By::Name(text) => text
            .parse::<Name>()
            .map(Selector::Name)
            .map_err(|problem| FieldError::new(&format!("{field}.name"), problem)),
    }
}

impl<I: SelectorId> From<Selector<I>> for v1::Selector {
    fn from(selector: Selector<I>) -> Self {
        use v1::selector::By;
        let by = match selector {
            Selector::Id(id) => By::Id(id.to_string()),
            Selector::Name(name) => By::Name(name.to_string()),
        };
        Self { by: Some(by) }
    }
}

impl TryFrom<v1::NodeIncarnation> for NodeIncarnation {
    type Error = FieldError;

    fn try_from(wire: v1::NodeIncarnation) -> Checked<Self> {
        let node = u16::try_from(wire.node).ok().filter(|raw| *raw > 0).ok_or_else(|| {
            FieldError::new("node", format_args!("{} is not from 1 to 65535", wire.node))
        })?;
        if wire.incarnation == 0 {
            return Err(FieldError::new("incarnation", "0 is never a live incarnation"));
        }
        Ok(Self { node: NodeId::new(node), incarnation: Incarnation::new(wire.incarnation) })
    }
}

impl From<NodeIncarnation> for v1::NodeIncarnation {
    fn from(node: NodeIncarnation) -> Self {
        Self { node: u32::from(node.node.get()), incarnation: node.incarnation.get() }
    }
}

impl TryFrom<v1::NodeSession> for NodeSession {
    type Error = FieldError;

    fn try_from(wire: v1::NodeSession) -> Checked<Self> {
        let v1::NodeSession { node, incarnation, session } = wire;
        let node = v1::NodeIncarnation { node, incarnation }.try_into()?;
        if session == 0 {
            return Err(FieldError::new("session", "0 is never a session: join first"));
        }
        Ok(Self { node, number: SessionNumber::new(session) })
    }
}

impl From<NodeSession> for v1::NodeSession {
    fn from(session: NodeSession) -> Self {
        let v1::NodeIncarnation { node, incarnation } = session.node.into();
        Self { node, incarnation, session: session.number.get() }
    }
}

impl TryFrom<v1::ExtentAddress> for ExtentAddress {
    type Error = FieldError;

    fn try_from(wire: v1::ExtentAddress) -> Checked<Self> {
        Ok(Self {
            lun: lun_index("lun", wire.lun)?,
            extent: physical_extent("extent", wire.extent)?,
        })
    }
}

impl From<ExtentAddress> for v1::ExtentAddress {
    fn from(at: ExtentAddress) -> Self {
        Self { lun: u32::from(at.lun.get()), extent: at.extent.get() }
    }
}

impl TryFrom<v1::ExtentRun> for ExtentRun {
    type Error = FieldError;

    fn try_from(wire: v1::ExtentRun) -> Checked<Self> {
        let lun = lun_index("lun", wire.lun)?;
        let extent = physical_extent("first", wire.first)?;
        if wire.count == 0 {
            return Err(FieldError::new("count", "a run of 0 extents is none"));
        }
        if extent.get() + u64::from(wire.count) > PhysicalExtent::LIMIT {
            return Err(FieldError::new("count", "the run ends beyond extent 2^36"));
        }
        Ok(Self::new(ExtentAddress { lun, extent }, wire.count))
    }
}

impl From<ExtentRun> for v1::ExtentRun {
    fn from(run: ExtentRun) -> Self {
        let first = run.first();
        Self { lun: u32::from(first.lun.get()), first: first.extent.get(), count: run.count() }
    }
}

impl TryFrom<v1::PageRequest> for PageRequest {
    type Error = FieldError;

    fn try_from(wire: v1::PageRequest) -> Checked<Self> {
        let limit = match wire.limit as usize {
            0 => Self::LIMIT_DEFAULT,
            limit if limit <= Self::LIMIT_MAX => limit,
            limit => {
                let problem = format_args!("{limit} is beyond {}", Self::LIMIT_MAX);
                return Err(FieldError::new("limit", problem));
            }
        };
        Ok(Self { limit, token: PageToken::from_bytes(wire.token) })
    }
}

impl From<PageRequest> for v1::PageRequest {
    fn from(page: PageRequest) -> Self {
        let limit = u32::try_from(page.limit).unwrap_or(u32::MAX);
        Self { limit, token: token_bytes(page.token) }
    }
}

/// The page that a list request asks for; the first one when it says nothing.
///
/// # Errors
/// When the limit is beyond the most.
pub fn page_request(wire: Option<v1::PageRequest>) -> Result<PageRequest, FieldError> {
    let page = wire.unwrap_or_default();
    PageRequest::try_from(page).map_err(|error| error.within("page"))
}

/// How long a call waits for a change.
///
/// # Errors
/// When it is longer than [`WAIT_MAX`].
pub fn wait(wait_ms: u32) -> Result<Duration, FieldError> {
    let wait = Duration::from_millis(u64::from(wait_ms));
    if wait > WAIT_MAX {
        let problem = format_args!("{wait_ms} is beyond {}", WAIT_MAX.as_millis());
        return Err(FieldError::new("wait_ms", problem));
    }
    Ok(wait)
}

/// A wait on its way to the wire, cut to [`WAIT_MAX`].
#[must_use]
pub fn wait_ms(wait: Duration) -> u32 {
    u32::try_from(wait.min(WAIT_MAX).as_millis()).expect("WAIT_MAX is some seconds")
}

/// A page token on its way to the wire, where none is empty.
#[must_use]
pub fn token_bytes(token: Option<PageToken>) -> Vec<u8> {
    token.map(|token| token.as_bytes().to_vec()).unwrap_or_default()
}
