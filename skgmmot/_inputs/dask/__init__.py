"""dask arrays and data frames, which stay with dask: a fit runs functions of their blocks as tasks.

dask is imported here where the user has brought it, by handing in one of its collections.
"""
