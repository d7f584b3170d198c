// Theme: every colour of the window by role, the only place that holds hex values. Plots and delegates read it, never palette().
// ThemeController applies one to the application: Fusion, palette, style sheet, icons. GUI thread only.
#pragma once

#include <QColor>
#include <QFont>
#include <QObject>
#include <QString>

#include <array>
#include <vector>

namespace espalier
{

struct Theme {
    bool dark = false;
    bool moreContrast = false;

    QColor window;   // gutters, menu, tool and status bar
    QColor surface;  // panels, headers, dialogs
    QColor base;     // plots, lists, tables, fields
    QColor raised;   // tooltips, menus
    QColor segment;  // the selected segment
    QColor segmentTrack;
    QColor control;
    QColor controlHover;
    QColor border;       // hairlines, grooves
    QColor fieldBorder;  // 3:1 and more on base
    QColor text;
    QColor muted;
    QColor disabled;
    QColor accent;  // the plan on screen, and "act here"
    QColor accentHover;
    QColor onAccent;
    QColor accentTint;
    QColor selection;
    QColor rowHover;
    QColor focus;
    QColor warning;
    QColor warningTint;
    QColor error;
    QColor errorTint;
    QColor stale;  // numbers and lines of another plan
    QColor estimate;
    QColor neutral;   // no value
    QColor baseline;  // the dense model
    QColor ghost;     // the curve before the drag, other branches
    QColor grid;
    QColor axis;
    std::vector<QColor> series;  // runs and snapshots, in order of creation

    // Marks over coloured cells are drawn in one of these two, whichever is legible (heatmap ink).
    QColor inkLight;
    QColor inkDark;
    double hatchOpacity = 0.70;

    QColor keptBar() const;  // accent at 62 % on base
    // The role with this name ("field-border"); invalid when there is none.
    QColor role(QStringView name) const;
    static const std::vector<QString>& roleNames();

    static const Theme& lightTheme();
    static const Theme& darkTheme();
    // border := field border, grid := axis, hatch opaque, muted := text.
    Theme withMoreContrast() const;
};

// White where the relative luminance of `cell` is under 0.24, else nearly black.
QColor inkOn(const Theme& theme, const QColor& cell);
// WCAG 2: relative luminance in [0, 1], contrast ratio in [1, 21].
double relativeLuminance(const QColor& color);
double contrastRatio(const QColor& a, const QColor& b);
QColor mixed(const QColor& over, const QColor& under, double opacity);

// The theme in force. Widgets read it when they paint; they are told by QEvent::StyleChange and PaletteChange, as after setStyleSheet.
const Theme& theme();

enum class FontRole { Small, SmallStrong, Body, Head, Title, Number, Display };
// Sizes follow from the application's font (mocks: 13 px body), in points.
QFont fontFor(FontRole role);
int pixelsOf(double units);  // pixels at 13 px body, scaled with the body font

// Whether the digits 0-9 have one width in `font`. If not, number cells set each digit in the width of the widest (drawNumber).
bool digitsAlign(const QFont& font);

enum class ThemeChoice { System, Light, Dark };

class ThemeController final : public QObject
{
    Q_OBJECT
public:
    explicit ThemeController(QObject* parent = nullptr);  // reads the system's palette: construct before any palette is set
    ~ThemeController() override;

    ThemeChoice choice() const { return m_choice; }
    bool moreContrast() const { return m_moreContrast; }
    void setChoice(ThemeChoice choice);
    void setMoreContrast(bool more);
    // Sets style, palette and style sheet of the application. Called by the setters; call once at start.
    void apply();

signals:
    void changed();

protected:
    bool eventFilter(QObject* watched, QEvent* event) override;

private:
    bool systemIsDark();

    ThemeChoice m_choice = ThemeChoice::System;
    bool m_moreContrast = false;
    bool m_applying = false;
    bool m_systemDark = false;
};

// The application's style sheet with the roles of `theme` filled in. Exposed for tests: no "{" is left.
QString styleSheetFor(const Theme& theme);
QString themeChoiceId(ThemeChoice choice);         // "system", "light", "dark"
ThemeChoice themeChoiceFromId(const QString& id);  // unknown: System

}  // namespace espalier
