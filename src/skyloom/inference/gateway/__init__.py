"""The gateway: one process before endpoints where somebody has to choose or to wait.

Bytes come up through `inference.wire`, meet a site per endpoint and wire (`sites`), and become a `Passage`. The endpoint's `RouteDesk`
chooses a revision (`choice`) and a replica (`crew`), holds what has to wait (`held`), and sends it as bytes over a kept connection
(`upstream`). It knows addresses, heads and statuses; it never looks into a body.
"""
