//! Process 1 and command server of a lab machine; see [`lunar_lab::agent`].

fn main() -> std::process::ExitCode {
    lunar_lab::agent::main()
}
