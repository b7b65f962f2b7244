"""`python -m wavespike` is `wavespike`."""

from wavespike.cli.main import main

raise SystemExit(main())
