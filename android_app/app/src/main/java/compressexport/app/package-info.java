/** The app's screens, and its headless entry {@link compressexport.app.RunActivity}. */
package compressexport.app;
