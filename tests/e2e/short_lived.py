"""swarmnet-manager that lets certificates last for seconds: `python -m tests.e2e.short_lived`."""

from __future__ import annotations

from swarmnet.core import limits

setattr(limits, "MIN_CERTIFICATE_LIFETIME_S", 1)  # noqa: B010  its type says that it is final

from swarmnet.manager.main import main  # noqa: E402  it takes the limit as it is then

main()
