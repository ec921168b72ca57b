"""The web page of ``clipdense demo``.

``predictions`` and ``points`` compute, ``markup`` and ``files`` show; ``page`` and ``server`` need gradio.
What visitors send is checked in ``predictions`` and ``uploads``; the checks of the browser are not relied on.
"""
