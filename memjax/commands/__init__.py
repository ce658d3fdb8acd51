"""What the subcommands of `memjax` do, a file each."""
