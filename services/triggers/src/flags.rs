//! Test that every flag of every command takes the same values as an environment variable.

use clap::{ArgAction, Command, CommandFactory as _};

use crate::Cli;

/// Each flag that is also a variable: the names of its commands, its option and its variable.
fn flags_of(command: &Command, path: &[String], found: &mut Vec<(Vec<String>, String, String)>) {
    for arg in command.get_arguments().filter(|arg| matches!(arg.get_action(), ArgAction::SetTrue)) {
        if let (Some(option), Some(variable)) = (arg.get_long(), arg.get_env()) {
            found.push((path.to_vec(), option.to_owned(), variable.to_string_lossy().into_owned()));
        }
    }
    for subcommand in command.get_subcommands() {
        flags_of(subcommand, &[path, &[subcommand.get_name().to_owned()]].concat(), found);
    }
}

/// The command whose flag `option` takes a value on the command line. Clap parses it as it parses the variable, and a
/// test cannot safely set a variable of its own process.
fn with_value(command: Command, path: &[String], option: &str) -> Command {
    match path.split_first() {
        Some((name, rest)) => command.mut_subcommand(name, |command| with_value(command, rest, option)),
        None => command.mut_args(|arg| match arg.get_long() {
            Some(long) if long == option => arg.action(ArgAction::Set).num_args(1),
            _ => arg,
        }),
    }
}

#[test]
fn a_flag_refuses_an_unknown_word_and_names_its_option() {
    let mut flags = Vec::new();
    flags_of(&Cli::command(), &[], &mut flags);
    assert!(flags.len() >= 4, "the roles have flags: {flags:?}");
    for (path, option, variable) in flags {
        // The option that `ingest` and `dispatcher` require.
        let required = path.iter().any(|name| name != "materializer").then(|| "--sealing-key=k".to_owned());
        let parse = |value: &str| {
            let arguments = ["triggers".to_owned()].into_iter().chain(path.clone()).chain(required.clone());
            let arguments = arguments.chain([format!("--{option}={value}")]);
            let matches = with_value(Cli::command(), &path, &option).try_get_matches_from(arguments);
            let matches = matches.map_err(|error| error.to_string())?;
            let role = path.iter().fold(&matches, |matches, name| matches.subcommand_matches(name).unwrap());
            Ok::<bool, String>(role.get_flag(&option.replace('-', "_")))
        };
        for value in ["disabled", "2", "none", "tru e", " "] {
            let error = parse(value).unwrap_err();
            assert!(error.contains(&format!("--{option}")) && error.contains(&variable), "{value}: {error}");
        }
        for value in ["true", "1", "YES", "On"] {
            assert_eq!(parse(value), Ok(true), "{variable}={value}");
        }
        for value in ["false", "0", "No", "OFF", ""] {
            assert_eq!(parse(value), Ok(false), "{variable}={value}");
        }
    }
}
