#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    pgward::cli::main()
}
