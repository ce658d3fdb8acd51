"""The shipped configs: `memjax train --config=NAME[:VARIANT]` finds them by the name of their file."""
