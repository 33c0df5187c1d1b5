//! `lunar snapshot verify`.

use super::super::Context;
use super::opened::Opened;
use super::{Stop, on_thread};
use crate::args::VerifyArgs;
use crate::error::{CliError, Exit};
use crate::progress::Moving;
use crate::views::transfer::VerifyView;

pub(in super::super) async fn run(
    args: &VerifyArgs,
    context: &Context<'_>,
) -> Result<Exit, CliError> {
    let (step, stop, file) = ("verify an export", Stop::on_signals(), args.file.clone());
    let opened = on_thread(move || Opened::open(step, &file, false)).await?;
    let moving = Moving::of("verifying", opened.data_bytes(), context.global.output);
    let counter = moving.counter();
    let export = on_thread(move || opened.read(step, None, &stop, &counter)).await;
    drop(moving);
    context.show(&VerifyView { export: export? })
}
