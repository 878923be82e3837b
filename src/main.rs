use std::process::ExitCode;

fn main() -> ExitCode {
    pgvigil::cli::main()
}
