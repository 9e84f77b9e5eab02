package compressexport.app;

import compressexport.core.Files;
import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;

/** Every row that this app measured, oldest first, in measurements.jsonl as compress-export keeps it. */
final class History {
    private final File file;

    History(File folder) {
        file = new File(folder, "measurements.jsonl");
    }

    void add(String row) throws IOException {
        try (FileOutputStream target = new FileOutputStream(file, true)) {
            target.write((row.trim() + "\n").getBytes(StandardCharsets.UTF_8));
        }
    }

    /** Newest first. */
    List<String> rows() throws IOException {
        List<String> found = new ArrayList<>();
        if (file.exists()) {
            for (String line : Files.text(file).split("\n")) {
                found.add(0, line);
            }
        }
        return found;
    }
}
