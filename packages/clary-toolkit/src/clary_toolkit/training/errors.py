"""The errors of the launcher. The text of each is what the failure file, and so FailureReason, says.

ClientError                    the user's code or request is at fault
├── CommandFailed              a command that was run for the user ended badly
│   ├── InstallRequirementsError
│   ├── InstallModuleError
│   └── ExecuteUserScriptError
└── StoppedBeforeStart         SIGTERM came before the script did
"""

from __future__ import annotations


class ClientError(Exception):
    """A mistake in the request or the user's code; its text is written for the user."""


class StoppedBeforeStart(ClientError):
    """The job was stopped while its code was still being prepared."""


class CommandFailed(ClientError):
    """A command ended with another exit code than 0.

    The text has AWS's form, which tools parse: name, ExitCode, ErrorMessage, perhaps ExtraInfo, Command. `name` may
    replace the class's own name, as AWS does with the errors of TensorFlow.
    """

    def __init__(
        self, command: list[str], exit_code: int, message: str, extra: str | None = None, name: str | None = None
    ) -> None:
        super().__init__(command, exit_code)
        self.command = command
        self.exit_code = exit_code
        self.message = message
        self.extra = extra
        self.name = name or type(self).__name__

    def __str__(self) -> str:
        lines = [self.name + ":", "ExitCode {}".format(self.exit_code), 'ErrorMessage "{}"'.format(self.message)]
        if self.extra is not None:
            lines.append('ExtraInfo "{}"'.format(self.extra))
        lines.append('Command "{}"'.format(" ".join(self.command)))
        return "\n".join(lines)


class InstallRequirementsError(CommandFailed):
    """pip could not install requirements.txt."""


class InstallModuleError(CommandFailed):
    """pip could not install the user's package."""


class ExecuteUserScriptError(CommandFailed):
    """The user's script ended with another exit code than 0."""
