"""Measuring inside an app: the build of `android_app/`, its bundle, the plan that goes in, the row that comes out."""
