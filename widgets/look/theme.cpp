#include "look/theme.h"

#include "look/icon.h"

#include <QAbstractButton>
#include <QApplication>
#include <QComboBox>
#include <QEvent>
#include <QFocusEvent>
#include <QFontInfo>
#include <QFontMetricsF>
#include <QPalette>
#include <QStyle>
#include <QTimer>
#include <QWidget>

#include <cmath>

namespace espalier
{

namespace
{

struct RoleEntry {
    const char* name;
    QColor Theme::*member;
};

constexpr RoleEntry kRoles[] = {
    {"window", &Theme::window},
    {"surface", &Theme::surface},
    {"base", &Theme::base},
    {"raised", &Theme::raised},
    {"segment", &Theme::segment},
    {"segment-track", &Theme::segmentTrack},
    {"control", &Theme::control},
    {"control-hover", &Theme::controlHover},
    {"border", &Theme::border},
    {"field-border", &Theme::fieldBorder},
    {"text", &Theme::text},
    {"muted", &Theme::muted},
    {"disabled", &Theme::disabled},
    {"accent", &Theme::accent},
    {"accent-hover", &Theme::accentHover},
    {"on-accent", &Theme::onAccent},
    {"accent-tint", &Theme::accentTint},
    {"selection", &Theme::selection},
    {"row-hover", &Theme::rowHover},
    {"focus", &Theme::focus},
    {"warning", &Theme::warning},
    {"warning-tint", &Theme::warningTint},
    {"error", &Theme::error},
    {"error-tint", &Theme::errorTint},
    {"stale", &Theme::stale},
    {"estimate", &Theme::estimate},
    {"neutral", &Theme::neutral},
    {"baseline", &Theme::baseline},
    {"ghost", &Theme::ghost},
    {"grid", &Theme::grid},
    {"axis", &Theme::axis},
};

Theme makeLight()
{
    Theme t;
    t.window = 0xE8EBED;
    t.surface = 0xF6F7F8;
    t.base = 0xFFFFFF;
    t.raised = 0xFFFFFF;
    t.segment = 0xFFFFFF;
    t.segmentTrack = 0xDADEE2;
    t.control = 0xE6E9EC;
    t.controlHover = 0xDCE0E4;
    t.border = 0xD2D7DC;
    t.fieldBorder = 0x858E97;
    t.text = 0x1A1F24;
    t.muted = 0x57616B;
    t.disabled = 0x949CA4;
    t.accent = 0x17734F;
    t.accentHover = 0x125F41;
    t.onAccent = 0xFFFFFF;
    t.accentTint = 0xDCEDE5;
    t.selection = 0xD3E8DE;
    t.rowHover = 0xEDF1F3;
    t.focus = 0x17734F;
    t.warning = 0x8A5300;
    t.warningTint = 0xFBF0DA;
    t.error = 0xB3261E;
    t.errorTint = 0xFBE9E7;
    t.stale = 0x5B646D;
    t.estimate = 0x5F519F;
    t.neutral = 0xDFE3E7;
    t.baseline = 0x57616B;
    t.ghost = 0x889199;
    t.grid = 0xE7EAED;
    t.axis = 0x98A1AA;
    t.series = {QColor(0x0072B2), QColor(0xC04F00), QColor(0xB0488C), QColor(0x2B1D8A), QColor(0x7A0A00)};
    t.inkLight = 0xFFFFFF;
    t.inkDark = 0x14181B;
    return t;
}

Theme makeDark()
{
    Theme t;
    t.dark = true;
    t.window = 0x121517;
    t.surface = 0x1C2023;
    t.base = 0x16191C;
    t.raised = 0x262B2F;
    t.segment = 0x3E464D;
    t.segmentTrack = 0x2B3136;
    t.control = 0x2B3136;
    t.controlHover = 0x363D43;
    t.border = 0x30363B;
    t.fieldBorder = 0x707A83;
    t.text = 0xE3E7EA;
    t.muted = 0xA6B0B9;
    t.disabled = 0x626B73;
    t.accent = 0x5CC597;
    t.accentHover = 0x74D3A9;
    t.onAccent = 0x0C1A13;
    t.accentTint = 0x1E372C;
    t.selection = 0x23453A;
    t.rowHover = 0x252A2E;
    t.focus = 0x5CC597;
    t.warning = 0xE5B25C;
    t.warningTint = 0x362B17;
    t.error = 0xFF8A80;
    t.errorTint = 0x3B2020;
    t.stale = 0xA1ABB4;
    t.estimate = 0xB3A5EC;
    t.neutral = 0x2B3136;
    t.baseline = 0xA6B0B9;
    t.ghost = 0x6A747D;
    t.grid = 0x24292D;
    t.axis = 0x5F6971;
    t.series = {QColor(0x56B4E9), QColor(0xE69F00), QColor(0xCC79A7), QColor(0xF0E442), QColor(0xE0702A)};
    t.inkLight = 0xFFFFFF;
    t.inkDark = 0x14181B;
    return t;
}

Theme& current()
{
    static Theme value = makeLight();
    return value;
}

QPalette paletteFor(const Theme& t)
{
    QPalette p;
    const auto set = [&p](QPalette::ColorRole role, const QColor& colour) { p.setColor(QPalette::All, role, colour); };
    set(QPalette::Window, t.surface);
    set(QPalette::Base, t.base);
    set(QPalette::AlternateBase, t.base);
    set(QPalette::ToolTipBase, t.raised);
    set(QPalette::ToolTipText, t.text);
    set(QPalette::Light, t.raised);
    set(QPalette::Midlight, t.controlHover);
    set(QPalette::Button, t.control);
    set(QPalette::Mid, t.border);
    set(QPalette::Dark, t.border);
    set(QPalette::Shadow, t.border);
    set(QPalette::WindowText, t.text);
    set(QPalette::Text, t.text);
    set(QPalette::ButtonText, t.text);
    set(QPalette::BrightText, t.text);
    set(QPalette::PlaceholderText, t.muted);
    set(QPalette::Highlight, t.selection);
    set(QPalette::HighlightedText, t.text);
    set(QPalette::Link, t.accent);
    set(QPalette::LinkVisited, t.accent);
    for (const auto role : {QPalette::WindowText, QPalette::Text, QPalette::ButtonText, QPalette::HighlightedText})
        p.setColor(QPalette::Disabled, role, t.disabled);
    return p;
}

// Placeholders are theme roles in braces; {theme} names the folder of the two-colour marks. Blocks are written with << and >> so
// that the braces of the style sheet itself cannot be mistaken for them.
constexpr const char* kStyleSheet = R"(
QMainWindow, QDialog#espalierStart << background: {window}; >>
QMainWindow::separator << background: {window}; width: 4px; height: 4px; >>
QMainWindow::separator:hover << background: {accent}; >>
QMenuBar << background: {window}; color: {text}; border: none; padding: 1px 6px; >>
QMenuBar::item << background: transparent; padding: 4px 10px; border-radius: 4px; >>
QMenuBar::item:selected << background: {control-hover}; >>
QMenu << background: {raised}; color: {text}; border: 1px solid {border}; padding: 4px 0px; >>
QMenu::item << padding: 4px 28px 4px 28px; >>
QMenu::item:selected << background: {selection}; color: {text}; >>
QMenu::item:disabled << color: {disabled}; >>
QMenu::icon << padding-left: 8px; >>
QMenu::separator << height: 1px; background: {border}; margin: 4px 0px; >>
QToolBar << background: {window}; border: none; padding: 4px 8px; spacing: 2px; >>
QToolBar::separator << background: {border}; width: 1px; height: 1px; margin: 6px; >>
QToolButton << background: transparent; color: {text}; border: 2px solid transparent; border-radius: 4px; padding: 3px; >>
QToolButton:hover << background: {control-hover}; >>
QToolButton:pressed << background: {border}; >>
QToolButton:checked << background: {accent-tint}; >>
QToolButton:disabled << color: {disabled}; background: transparent; >>
QToolButton[keyFocus="true"] << border-color: {focus}; >>
QToolButton::menu-indicator << image: none; >>
QPushButton << background: {control}; color: {text}; border: 2px solid transparent; border-radius: 4px; padding: 2px 10px; >>
QPushButton:hover << background: {control-hover}; >>
QPushButton:pressed << background: {border}; >>
QPushButton:disabled << color: {disabled}; >>
QPushButton:checked << background: {accent-tint}; >>
QPushButton[filled="true"] << background: {accent}; color: {on-accent}; font-weight: 600; >>
QPushButton[filled="true"]:hover << background: {accent-hover}; >>
QPushButton[filled="true"]:pressed << background: {accent-hover}; >>
QPushButton[filled="true"]:disabled << background: {control}; color: {disabled}; >>
QPushButton[link="true"] << background: transparent; color: {accent}; padding: 2px 4px; text-align: left; >>
QPushButton[link="true"]:hover << color: {accent-hover}; >>
QPushButton[keyFocus="true"] << border-color: {focus}; >>
QPushButton[filled="true"][keyFocus="true"] << border-color: {text}; >>
QComboBox << background: {control}; color: {text}; border: 2px solid transparent; border-radius: 4px; padding: 1px 4px 1px 6px; >>
QComboBox:hover << background: {control-hover}; >>
QComboBox:disabled << color: {disabled}; >>
QComboBox[keyFocus="true"] << border-color: {focus}; >>
QComboBox::drop-down << subcontrol-origin: padding; subcontrol-position: center right; width: 18px; border: none; >>
QComboBox::down-arrow << image: url(:/marks/{theme}/chevron-down.svg); width: 12px; height: 12px; >>
QComboBox QAbstractItemView << background: {raised}; color: {text}; border: 1px solid {border}; padding: 2px; outline: 0;
    selection-background-color: {selection}; selection-color: {text}; >>
QLineEdit, QSpinBox, QDoubleSpinBox, QPlainTextEdit, QTextEdit << background: {base}; color: {text}; border: 1px solid {field-border};
    border-radius: 4px; padding: 2px 5px; selection-background-color: {selection}; selection-color: {text}; >>
QLineEdit:focus, QSpinBox:focus, QDoubleSpinBox:focus, QPlainTextEdit:focus, QTextEdit:focus << border: 2px solid {focus}; padding: 1px 4px; >>
QLineEdit[invalid="true"] << border: 1px solid {error}; >>
QLineEdit[invalid="true"]:focus << border: 2px solid {error}; >>
QLineEdit:disabled, QSpinBox:disabled, QDoubleSpinBox:disabled << color: {disabled}; border-color: {border}; >>
QSpinBox::up-button, QDoubleSpinBox::up-button << subcontrol-origin: padding; subcontrol-position: top right; width: 16px; border: none; >>
QSpinBox::down-button, QDoubleSpinBox::down-button << subcontrol-origin: padding; subcontrol-position: bottom right; width: 16px; border: none; >>
QSpinBox::up-arrow, QDoubleSpinBox::up-arrow << image: url(:/marks/{theme}/chevron-up.svg); width: 9px; height: 9px; >>
QSpinBox::down-arrow, QDoubleSpinBox::down-arrow << image: url(:/marks/{theme}/chevron-down.svg); width: 9px; height: 9px; >>
QCheckBox, QRadioButton << spacing: 6px; color: {text}; >>
QCheckBox::indicator << width: 14px; height: 14px; border: 1px solid {field-border}; border-radius: 3px; background: {base}; >>
QCheckBox::indicator:checked << border-color: {accent}; background: {accent}; image: url(:/marks/{theme}/check.svg); >>
QCheckBox::indicator:focus << border: 2px solid {focus}; width: 12px; height: 12px; >>
QRadioButton::indicator << width: 14px; height: 14px; border: 1px solid {field-border}; border-radius: 8px; background: {base}; >>
QRadioButton::indicator:checked << border-color: {accent}; background: qradialgradient(cx:0.5, cy:0.5, radius:0.5, fx:0.5, fy:0.5,
    stop:0 {accent}, stop:0.5 {accent}, stop:0.6 {base}, stop:1 {base}); >>
QRadioButton::indicator:focus << border: 2px solid {focus}; width: 12px; height: 12px; >>
QRadioButton::indicator:disabled << border-color: {border}; >>
QCheckBox:disabled, QRadioButton:disabled << color: {disabled}; >>
QProgressBar << background: {border}; border: none; border-radius: 2px; max-height: 4px; min-height: 4px; >>
QProgressBar::chunk << background: {accent}; border-radius: 2px; >>
QToolTip << background: {raised}; color: {text}; border: 1px solid {border}; padding: 4px; >>
QScrollBar:vertical << background: transparent; width: 10px; margin: 0px; >>
QScrollBar:horizontal << background: transparent; height: 10px; margin: 0px; >>
QScrollBar::handle:vertical << background: {border}; border-radius: 3px; margin: 2px; min-height: 24px; >>
QScrollBar::handle:horizontal << background: {border}; border-radius: 3px; margin: 2px; min-width: 24px; >>
QScrollBar::handle:hover << background: {ghost}; >>
QScrollBar::add-line, QScrollBar::sub-line << width: 0px; height: 0px; >>
QScrollBar::add-page, QScrollBar::sub-page << background: transparent; >>
QAbstractScrollArea << border: none; >>
QTableView, QListView, QTreeView << background: {base}; color: {text}; border: none; outline: 0;
    selection-background-color: {selection}; selection-color: {text}; >>
QHeaderView << background: {surface}; border: none; >>
QHeaderView::section << background: {surface}; color: {muted}; border: none; border-bottom: 1px solid {border}; padding: 0px 6px; >>
QTableCornerButton::section << background: {surface}; border: none; >>
QDockWidget << color: {text}; border: none; >>
QLabel[role="muted"] << color: {muted}; >>
QLabel[role="estimate"] << color: {estimate}; >>
QLabel[role="error"] << color: {error}; >>
QLabel[role="warning"] << color: {warning}; >>
QTabWidget::pane << border: none; >>
QTabBar::tab << background: transparent; color: {muted}; padding: 6px 10px; border-bottom: 2px solid transparent; >>
QTabBar::tab:selected << color: {text}; border-bottom: 2px solid {accent}; >>
QSplitter::handle << background: {window}; >>
)";

}  // namespace

const Theme& Theme::lightTheme()
{
    static const Theme value = makeLight();
    return value;
}

const Theme& Theme::darkTheme()
{
    static const Theme value = makeDark();
    return value;
}

Theme Theme::withMoreContrast() const
{
    Theme t = *this;
    t.moreContrast = true;
    t.border = fieldBorder;
    t.grid = axis;
    t.hatchOpacity = 1.0;
    t.muted = text;
    return t;
}

QColor Theme::keptBar() const { return mixed(accent, base, 0.62); }

QColor Theme::role(QStringView name) const
{
    for (const RoleEntry& entry : kRoles) {
        if (name == QLatin1StringView(entry.name)) return this->*entry.member;
    }
    return {};
}

const std::vector<QString>& Theme::roleNames()
{
    static const std::vector<QString> names = [] {
        std::vector<QString> list;
        for (const RoleEntry& entry : kRoles)
            list.push_back(QString::fromLatin1(entry.name));
        return list;
    }();
    return names;
}

double relativeLuminance(const QColor& color)
{
    const auto linear = [](double c) { return c <= 0.04045 ? c / 12.92 : std::pow((c + 0.055) / 1.055, 2.4); };
    return 0.2126 * linear(color.redF()) + 0.7152 * linear(color.greenF()) + 0.0722 * linear(color.blueF());
}

double contrastRatio(const QColor& a, const QColor& b)
{
    const double la = relativeLuminance(a);
    const double lb = relativeLuminance(b);
    return (std::max(la, lb) + 0.05) / (std::min(la, lb) + 0.05);
}

QColor mixed(const QColor& over, const QColor& under, double opacity)
{
    const auto mix = [opacity](double o, double u) { return static_cast<float>(opacity * o + (1 - opacity) * u); };
    return QColor::fromRgbF(mix(over.redF(), under.redF()), mix(over.greenF(), under.greenF()), mix(over.blueF(), under.blueF()));
}

QColor inkOn(const Theme& theme, const QColor& cell) { return relativeLuminance(cell) < 0.24 ? theme.inkLight : theme.inkDark; }

const Theme& theme() { return current(); }

static double bodyPixels()
{
    const int pixels = QFontInfo(QApplication::font()).pixelSize();
    return pixels > 0 ? pixels : 13;
}

int pixelsOf(double units) { return static_cast<int>(std::lround(units * std::max(1.0, bodyPixels() / 13.0))); }

QFont fontFor(FontRole role)
{
    QFont font = QApplication::font();
    const double body = bodyPixels();
    const auto scaleTo = [&](double pixels) {
        if (font.pointSizeF() > 0)
            font.setPointSizeF(font.pointSizeF() * pixels / body);
        else
            font.setPixelSize(static_cast<int>(std::lround(pixels)));
    };
    switch (role) {
        case FontRole::Small:
            scaleTo(body - 2 * body / 13);
            break;
        case FontRole::SmallStrong:
            scaleTo(body - 2 * body / 13);
            font.setWeight(QFont::DemiBold);
            break;
        case FontRole::Body:
            break;
        case FontRole::Head:
            font.setWeight(QFont::DemiBold);
            break;
        case FontRole::Title:
            scaleTo(body + 3 * body / 13);
            font.setWeight(QFont::DemiBold);
            break;
        case FontRole::Number:
            scaleTo(body + 9 * body / 13);
            font.setWeight(QFont::DemiBold);
            break;
        case FontRole::Display:
            scaleTo(30 * body / 13);
            font.setWeight(QFont::DemiBold);
            break;
    }
    return font;
}

bool digitsAlign(const QFont& font)
{
    const QFontMetricsF metrics(font);
    const double first = metrics.horizontalAdvance(QLatin1Char('0'));
    for (char digit = '1'; digit <= '9'; ++digit) {
        if (std::abs(metrics.horizontalAdvance(QLatin1Char(digit)) - first) > 0.05) return false;
    }
    return true;
}

QString styleSheetFor(const Theme& theme)
{
    QString sheet = QString::fromLatin1(kStyleSheet);
    for (const QString& name : Theme::roleNames())
        sheet.replace(QLatin1Char('{') + name + QLatin1Char('}'), theme.role(name).name());
    sheet.replace(QStringLiteral("{theme}"), theme.dark ? QStringLiteral("dark") : QStringLiteral("light"));
    sheet.replace(QStringLiteral("<<"), QStringLiteral("{"));
    sheet.replace(QStringLiteral(">>"), QStringLiteral("}"));
    return sheet;
}

ThemeController::ThemeController(QObject* parent) : QObject(parent)
{
    const QPalette palette = QApplication::palette();
    m_systemDark = relativeLuminance(palette.color(QPalette::Window)) < relativeLuminance(palette.color(QPalette::WindowText));
    qApp->installEventFilter(this);
}

ThemeController::~ThemeController() = default;

bool ThemeController::systemIsDark()
{
    // What the platform delivers shows only when no palette of ours is set.
    m_applying = true;
    QApplication::setPalette(QPalette());
    const QPalette palette = QApplication::palette();
    const bool dark = relativeLuminance(palette.color(QPalette::Window)) < relativeLuminance(palette.color(QPalette::WindowText));
    m_applying = false;
    return dark;
}

void ThemeController::setChoice(ThemeChoice choice)
{
    if (m_choice == choice) return;
    m_choice = choice;
    apply();
}

void ThemeController::setMoreContrast(bool more)
{
    if (m_moreContrast == more) return;
    m_moreContrast = more;
    apply();
}

void ThemeController::apply()
{
    const bool dark = m_choice == ThemeChoice::Dark || (m_choice == ThemeChoice::System && m_systemDark);
    Theme next = dark ? Theme::darkTheme() : Theme::lightTheme();
    if (m_moreContrast) next = next.withMoreContrast();
    current() = next;
    m_applying = true;
    // The style sheet wraps the style in force, so the name of the outer one does not tell whether Fusion is set.
    if (qApp->styleSheet().isEmpty()) QApplication::setStyle(QStringLiteral("Fusion"));
    QApplication::setPalette(paletteFor(next));
    qApp->setStyleSheet(styleSheetFor(next));
    m_applying = false;
    emit changed();
}

bool ThemeController::eventFilter(QObject* watched, QEvent* event)
{
    switch (event->type()) {
        case QEvent::ApplicationPaletteChange:
            if (watched == qApp && !m_applying && m_choice == ThemeChoice::System) {
                QTimer::singleShot(0, this, [this] {
                    m_systemDark = systemIsDark();
                    apply();
                });
            }
            break;
        case QEvent::FocusIn:
        case QEvent::FocusOut: {
            // A ring only where focus came by key; style sheets cannot tell, so the widget carries a property.
            auto* widget = qobject_cast<QWidget*>(watched);
            if (widget == nullptr || (qobject_cast<QAbstractButton*>(widget) == nullptr && qobject_cast<QComboBox*>(widget) == nullptr))
                break;
            const auto reason = static_cast<QFocusEvent*>(event)->reason();
            const bool byKey = event->type() == QEvent::FocusIn &&
                               (reason == Qt::TabFocusReason || reason == Qt::BacktabFocusReason || reason == Qt::ShortcutFocusReason);
            if (widget->property("keyFocus").toBool() == byKey) break;
            widget->setProperty("keyFocus", byKey);
            widget->style()->unpolish(widget);
            widget->style()->polish(widget);
            widget->update();
            break;
        }
        default:
            break;
    }
    return QObject::eventFilter(watched, event);
}

QString themeChoiceId(ThemeChoice choice)
{
    switch (choice) {
        case ThemeChoice::Light:
            return QStringLiteral("light");
        case ThemeChoice::Dark:
            return QStringLiteral("dark");
        case ThemeChoice::System:
            break;
    }
    return QStringLiteral("system");
}

ThemeChoice themeChoiceFromId(const QString& id)
{
    if (id == QLatin1StringView("light")) return ThemeChoice::Light;
    if (id == QLatin1StringView("dark")) return ThemeChoice::Dark;
    return ThemeChoice::System;
}

}  // namespace espalier
