//! `lunar lun`, and how a LUN that the user names is found.

use std::path::Path;

use lunar_proto::domain::{NewLun, Pool, PoolFencing};
use lunar_proto::v1;
use lunar_types::{ByteCount, LogicalBlockSize, LunId};

use super::Context;
use crate::args::{LunCommand, LunReference};
use crate::daemon::Daemon;
use crate::error::{CliError, Exit};
use crate::views::lun::{LunDetail, LunList, LunView};

pub(super) async fn run(command: &LunCommand, context: &Context<'_>) -> Result<Exit, CliError> {
    match command {
        LunCommand::Label { path, force_foreign, repair } => {
            let request = v1::LabelLunRequest {
                path: path.display().to_string(),
                force_foreign: force_foreign.clone(),
                repair: *repair,
            };
            let labelled = context.daemon().await?.label_lun(request).await?;
            context.show(&LunView::new(&labelled, &[]))
        }
        LunCommand::List { all } => {
            let luns = context.daemon().await?.list_luns(*all).await?;
            show_list(context, &luns, LunDetail::Rows).await
        }
        LunCommand::Status { lun } => {
            let daemon = context.daemon().await?;
            let luns = match lun {
                Some(lun) => vec![find(&daemon, lun).await?],
                None => daemon.list_luns(false).await?,
            };
            show_list(context, &luns, LunDetail::Full).await
        }
    }
}

async fn show_list(
    context: &Context<'_>,
    luns: &[v1::LocalLun],
    detail: LunDetail,
) -> Result<Exit, CliError> {
    // LUNs are shown without a metadata service too: that is when one looks at them.
    let pools = pools(context).await.map_err(|error| error.message);
    context.show(&LunList::new(luns, pools, detail))
}

async fn pools(context: &Context<'_>) -> Result<Vec<Pool>, CliError> {
    Ok(context.service().await?.pools().await?)
}

async fn find(daemon: &Daemon, lun: &LunReference) -> Result<v1::LocalLun, CliError> {
    match lun {
        LunReference::Path(path) => daemon.inspect_lun(path).await,
        LunReference::Id(id) => {
            let luns = daemon.list_luns(true).await?;
            luns.into_iter().find(|lun| has_id(lun, *id)).ok_or_else(|| unseen(*id))
        }
    }
}

fn has_id(lun: &v1::LocalLun, id: LunId) -> bool {
    lun.label.as_ref().is_some_and(|label| label.lun_id.parse() == Ok(id))
}

fn unseen(id: LunId) -> CliError {
    let message = format!("LUN {id} is not seen by this node");
    let advice =
        "see 'lunar lun list --all' here and on the other nodes, and the path to the array";
    CliError::new(Exit::NotFound, "LUN_NOT_FOUND", message).advise(advice)
}

/// The LUNs that the user names.
pub(super) async fn find_all(
    daemon: &Daemon,
    luns: &[LunReference],
) -> Result<Vec<v1::LocalLun>, CliError> {
    let mut found = Vec::with_capacity(luns.len());
    for lun in luns {
        found.push(find(daemon, lun).await?);
    }
    Ok(found)
}

fn without_reservations(found: &[v1::LocalLun]) -> Option<&v1::LocalLun> {
    found.iter().find(|lun| !lun.has_reservations)
}

/// What fences a new pool of these LUNs: what is asked for, reservations where all have them.
pub(super) fn fencing_of(
    found: &[v1::LocalLun],
    asked: Option<PoolFencing>,
) -> Result<PoolFencing, CliError> {
    match (asked, without_reservations(found)) {
        (None | Some(PoolFencing::Reservations), None) => Ok(PoolFencing::Reservations),
        (Some(fencing @ (PoolFencing::Lease | PoolFencing::None)), _) => Ok(fencing),
        (None | Some(PoolFencing::Reservations), Some(lun)) => Err(no_reservations(lun)),
    }
}

/// Refuses LUNs that a pool with reservations could not fence.
pub(super) fn require_fencing(found: &[v1::LocalLun], pool: &Pool) -> Result<(), CliError> {
    match without_reservations(found) {
        Some(lun) if pool.fencing == PoolFencing::Reservations => Err(no_reservations(lun)),
        _ => Ok(()),
    }
}

fn no_reservations(lun: &v1::LocalLun) -> CliError {
    let message = format!(
        "{} has no persistent reservations: nothing could keep a lost node from writing to it",
        lun.path
    );
    let explained = |fencing: PoolFencing| {
        format!("--fencing {fencing} ({})", fencing.warning().unwrap_or_default())
    };
    let (lease, none) = (explained(PoolFencing::Lease), explained(PoolFencing::None));
    let advice = format!("turn them on at the array, or choose for the pool: {lease}, or {none}");
    CliError::new(Exit::Refused, "LUN_WITHOUT_RESERVATIONS", message).advise(advice)
}

/// LUNs as a pool takes them: labelled by this cluster and sound.
pub(super) fn to_pool_luns(found: &[v1::LocalLun]) -> Result<Vec<NewLun>, CliError> {
    let sound = found.iter().map(to_pool_lun).collect::<Result<Vec<_>, _>>()?;
    match first_twice(&sound) {
        Some((first, second)) => Err(given_twice(&found[first].path, &found[second].path)),
        None => Ok(sound),
    }
}

/// Where a LUN stands that comes again, and where it comes again.
fn first_twice(luns: &[NewLun]) -> Option<(usize, usize)> {
    let earlier = |second: usize| luns[..second].iter().position(|lun| lun.id == luns[second].id);
    (0..luns.len()).find_map(|second| Some((earlier(second)?, second)))
}

fn given_twice(first: &str, second: &str) -> CliError {
    let message = match first == second {
        true => format!("{first} is given twice: a LUN joins a pool once"),
        false => format!("{first} and {second} are one LUN, given twice: it joins a pool once"),
    };
    CliError::new(Exit::Refused, "LUN_IN_USE", message).advise("name each LUN by one of its paths")
}

fn to_pool_lun(lun: &v1::LocalLun) -> Result<NewLun, CliError> {
    let path = Path::new(&lun.path).display();
    match (lun.state(), &lun.label) {
        (v1::LunState::Ours, Some(label)) => sound_lun(lun, label),
        (v1::LunState::Unlabelled, _) => {
            let message = format!("{path} cannot join a pool: it has no label");
            let advice = format!("lunar lun label {path}");
            Err(CliError::new(Exit::Refused, "LUN_UNLABELLED", message).advise(advice))
        }
        (state, _) => {
            let message = format!("{path} cannot join a pool: {}", lun.problem);
            let advice = match state {
                v1::LunState::LabelCopyDamaged => format!("lunar lun label {path} --repair"),
                _ => format!("lunar lun status {path} shows what it carries"),
            };
            Err(CliError::new(Exit::Refused, "LUN_NOT_USABLE", message).advise(advice))
        }
    }
}

fn sound_lun(lun: &v1::LocalLun, label: &v1::LunLabel) -> Result<NewLun, CliError> {
    let odd = |what: String| {
        let message = format!("fs-core answers about {} what cannot be: {what}", lun.path);
        CliError::new(Exit::Failed, "MALFORMED_ANSWER", message)
    };
    let block_size = LogicalBlockSize::from_bytes(label.logical_block_size.into());
    Ok(NewLun {
        id: label.lun_id.parse().map_err(|error| odd(format!("{error}")))?,
        size: ByteCount::new(label.size_bytes),
        logical_block_size: block_size.map_err(|error| odd(error.to_string()))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labelled(state: v1::LunState) -> v1::LocalLun {
        v1::LocalLun {
            path: "/dev/sdb".to_owned(),
            size_bytes: 5 << 30,
            state: state.into(),
            label: Some(v1::LunLabel {
                lun_id: LunId::from_u128(7).to_string(),
                size_bytes: 4 << 30,
                logical_block_size: 512,
                ..v1::LunLabel::default()
            }),
            problem: "the second copy differs".to_owned(),
            ..v1::LocalLun::default()
        }
    }

    #[test]
    fn a_labelled_lun_joins_with_what_its_label_says() {
        let lun = to_pool_lun(&labelled(v1::LunState::Ours)).expect("sound");
        let size = ByteCount::new(4 << 30);
        let logical_block_size = LogicalBlockSize::B512;
        assert_eq!(lun, NewLun { id: LunId::from_u128(7), size, logical_block_size });
    }

    #[test]
    fn reservations_are_the_default_where_every_lun_has_them_and_nothing_is_where_one_has_not() {
        let lun =
            |has_reservations| v1::LocalLun { has_reservations, ..labelled(v1::LunState::Ours) };
        let (with, mixed) = ([lun(true)], [lun(true), lun(false)]);
        assert_eq!(fencing_of(&with, None), Ok(PoolFencing::Reservations));
        assert_eq!(fencing_of(&with, Some(PoolFencing::None)), Ok(PoolFencing::None));
        assert_eq!(fencing_of(&mixed, Some(PoolFencing::Lease)), Ok(PoolFencing::Lease));
        for asked in [None, Some(PoolFencing::Reservations)] {
            let error = fencing_of(&mixed, asked).expect_err("one has none");
            assert_eq!(
                (error.exit, error.reason.as_str()),
                (Exit::Refused, "LUN_WITHOUT_RESERVATIONS")
            );
            for said in ["/dev/sdb", "--fencing lease", "--fencing none"] {
                assert!(error.to_string().contains(said), "{said}: {error}");
            }
        }
    }

    #[test]
    fn luns_that_are_not_sound_are_refused_with_the_reason() {
        let bare = v1::LocalLun { label: None, ..labelled(v1::LunState::Unlabelled) };
        let error = to_pool_lun(&bare).expect_err("no label");
        assert_eq!(
            (error.exit, error.advice.as_str()),
            (Exit::Refused, "lunar lun label /dev/sdb")
        );
        for state in [v1::LunState::LabelDamaged, v1::LunState::ForeignCluster] {
            let error = to_pool_lun(&labelled(state)).expect_err("not sound");
            let expected = "/dev/sdb cannot join a pool: the second copy differs";
            assert_eq!((error.exit, error.message.as_str()), (Exit::Refused, expected));
        }
    }

    #[test]
    fn a_lun_given_twice_is_found_by_its_id() {
        let lun = |id| NewLun {
            id: LunId::from_u128(id),
            size: ByteCount::new(4 << 30),
            logical_block_size: LogicalBlockSize::B512,
        };
        assert_eq!(first_twice(&[lun(1), lun(2), lun(3)]), None);
        assert_eq!(first_twice(&[lun(1), lun(2), lun(3), lun(2)]), Some((1, 3)));
        let error = given_twice("/dev/sdb", "/dev/sdc");
        assert!(error.message.contains("/dev/sdb and /dev/sdc are one LUN"), "{error}");
    }

    #[test]
    fn a_malformed_label_is_no_label() {
        let mut lun = labelled(v1::LunState::Ours);
        lun.label.as_mut().expect("has one").logical_block_size = 7;
        assert_eq!(to_pool_lun(&lun).expect_err("7 is no block size").exit, Exit::Failed);
    }
}
