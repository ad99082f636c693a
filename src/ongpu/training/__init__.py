"""The reference training: one readable pipeline, from a configuration to a model that transformers loads.

It is run by another environment's Python, as a folder on its path, so of ongpu it imports only ``ongpu.errors``
and ``ongpu.domain``; torch is imported after the configuration has been checked. Read it in this order:
``main``, ``config``, ``device``, ``dataset``, ``records``, ``data``, ``prepared``, ``batches``, ``gpt2``,
``optimizer``, ``step``, ``loop``, ``checkpoint``, ``output``; for several ranks also ``place``, ``ranks``, ``reduce``,
``sharded``, ``sharded_checkpoint``.
"""
